"""The objectives: Barlow Twins, mix-up consistency, prefix distillation.

The one idea: Barlow Twins is a function of one matrix, the cross-correlation of the standardised
global batch. It is written in stages between sums over that batch (`models.stages`), so the loss is
the same number on every process, and the step is the one that a single process with the whole batch
in one piece would take, however the batch is shared out.

It deliberately never accumulates: the mean of the losses of two half batches is another objective.
Everything is computed in float32 at least, with autocast off. Loss values are no measure of
quality; the paper finds them uncorrelated with downstream scores.

Axis words: `view` (first, second, mixed), `b` local batch, `d` projector width, `repr` embedding,
`target` teacher coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor

from models.stages import Products, Staged, statistics
from models.student import PrefixHeads

if TYPE_CHECKING:
    from jaxtyping import Float

VARIANCE_FLOOR = 1e-12
"""Keeps the gradient finite for a coordinate that is constant over the batch."""


class Twins(NamedTuple):
    """The losses of a step over the global batch, equal on all ranks."""

    loss: Float[Tensor, ""]
    """sum_i (C_ii - 1)^2 + weight * sum_{i != j} C_ij^2."""
    mixup: Float[Tensor, ""] | None
    """The mix-up term; the recipe adds it with factor 1."""
    correlation: Float[Tensor, "d d"]
    """C, the cross-correlation of the two views, without a gradient."""


def barlow_twins(
    z: Float[Tensor, "view b d"], off_diagonal_weight: float, alpha: float | None = None
) -> Staged[Twins]:
    """Compare the projections of two views, and of their mix.

    C(x, y) = x' y / B over the global batch of B rows, each column standardised with its mean and
    its unbiased standard deviation over the global batch. With C of the two views, the loss is
    sum_i (C_ii - 1)^2 + weight * sum_{i != j} C_ij^2.

    The mix-up term asks that the projection of a mixed input correlates as the mix of the
    projections would: weight * (|C(m, a) - alpha C(a, a) - (1 - alpha) C(b', a)|^2 + the same
    against b), where m is the mixed projection and b' holds each row's partner. C is linear in its
    first argument, so both are found from the one residual m - alpha a - (1 - alpha) b': two
    products instead of six.

    Args:
        z: projections of the first view, the second, and with `alpha` of the mixed one; this rank's
            rows.
        off_diagonal_weight: lambda; the released v1 recipe has 5e-3. It scales the mix-up term too.
        alpha: the share of the first view in the mix, as given to `mix_views`; None for no mix-up.

    Raises:
        ValueError: if the number of views does not fit, or alpha lies outside 0..1.

    Source: TESSERA v2, section 4, "Objective and training"; Zbontar et al. 2021; Bandara et al. 2023
    (Mixed Barlow Twins), as in the TESSERA v1 recipe.
    """
    views = 2 if alpha is None else 3
    if z.ndim != 3 or len(z) != views:
        raise ValueError(f"expected ({views} views, batch, width), got {tuple(z.shape)}")
    scaled, count = yield from standardise(z)
    pairs = [(scaled[0], scaled[1])]
    if alpha is not None:
        residual = scaled[2] - mix_views(scaled[0], scaled[1], alpha)
        pairs += [(residual, scaled[0]), (residual, scaled[1])]
    products = yield [Products(x, y) for x, y in pairs]
    correlation, *off = [product / count for product in products]
    mixup = off_diagonal_weight * torch.stack(off).square().sum() if off else None
    return Twins(_redundancy(correlation, off_diagonal_weight), mixup, correlation.detach())


def mix_views(
    view_a: Float[Tensor, "b ..."], view_b: Float[Tensor, "b ..."], alpha: float
) -> Float[Tensor, "b ..."]:
    """Return alpha * a + (1 - alpha) * b', where b' holds each row's partner.

    Decision: neighbours in the shuffled order are partners (0 with 1, 2 with 3, ...). That is a
    random pairing, and the same one however the rows are shared out, as long as no pair is parted.

    Args:
        view_a: values, days or projections of the first view.
        view_b: the same of the second view.
        alpha: share of the first view, 0..1, drawn from Beta(1, 1) once a step.

    Raises:
        ValueError: if alpha lies outside 0..1, or a row has no partner.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"expected a mixing share in 0..1, got {alpha}")
    if len(view_b) % 2:
        raise ValueError(f"expected an even number of rows, as pairs are mixed, got {len(view_b)}")
    partners = view_b.view(-1, 2, *view_b.shape[1:]).flip(1).view_as(view_b)
    return alpha * view_a + (1 - alpha) * partners


def prefix_distillation(
    embedding: Float[Tensor, "b repr"], heads: PrefixHeads, target: Float[Tensor, "b target"]
) -> Float[Tensor, ""]:
    """Return the sum over prefixes of 1 - cos(head_k(s[:k]), target), mean over the batch.

    Args:
        embedding: student embeddings s.
        heads: one linear head for each prefix length.
        target: frozen teacher embeddings of the same rows.

    Returns:
        Mean over the local rows, in 0..2 times the number of prefixes. With equal local batches,
        averaging gradients over ranks gives that of the global mean.

    Raises:
        ValueError: if the rows differ or the heads do not map into the target's space.

    Source: TESSERA v2, equation 2.
    """
    return (1 - prefix_cosines(embedding, heads, target)).sum(0).mean()


def prefix_cosines(
    embedding: Float[Tensor, "b repr"], heads: PrefixHeads, target: Float[Tensor, "b target"]
) -> Float[Tensor, "prefix b"]:
    """Return the cosine between each prefix's reconstruction and the target, shortest prefix first.

    Arguments and errors are those of `prefix_distillation`.
    """
    reconstructions = heads(embedding)
    if reconstructions[0].shape != target.shape:
        raise ValueError(
            f"expected targets {tuple(reconstructions[0].shape)}, got {tuple(target.shape)}"
        )
    with torch.autocast(target.device.type, enabled=False):
        goal = _wide(target)
        return torch.stack([F.cosine_similarity(_wide(r), goal, dim=-1) for r in reconstructions])


def standardise(
    z: Float[Tensor, "view b d"],
) -> Staged[tuple[Float[Tensor, "view b d"], Float[Tensor, ""]]]:
    """Scale each column to mean 0 and unbiased variance 1 over the global batch; count its rows."""
    mean, variance, rows = yield from statistics(z)
    count = rows.flatten()[0]
    wide = _wide(z)
    scale = torch.rsqrt(variance * count / (count - 1) + VARIANCE_FLOOR)
    return (wide - mean.to(wide.dtype)) * scale.to(wide.dtype), count.to(wide.dtype)


def _redundancy(correlation: Tensor, off_diagonal_weight: float) -> Tensor:
    diagonal = correlation.diagonal()
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum() + off_diagonal_weight * off_diagonal


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
