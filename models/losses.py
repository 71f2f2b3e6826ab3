"""The objectives: Barlow Twins, mix-up consistency, prefix distillation.

The one idea: Barlow Twins is a function of one matrix, the cross-correlation of the standardised
global batch. All statistics are sums over all processes that gradients pass through
(`models.collective`), so the loss is the same number on every rank and, after gradient averaging,
the step is the one that a single process with the whole batch would take.

It deliberately never accumulates: the mean of the losses of two half batches is another objective.
Everything is computed in float32 at least, with autocast off. Loss values are no measure of
quality; the paper finds them uncorrelated with downstream scores.

Axis words: `b` local batch, `d` projector width, `repr` embedding, `target` teacher coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor

from models.collective import all_reduce_sum, centre
from models.student import PrefixHeads

if TYPE_CHECKING:
    from jaxtyping import Float, Int

VARIANCE_FLOOR = 1e-12
"""Keeps the gradient finite for a coordinate that is constant over the batch."""


def barlow_twins(
    za: Float[Tensor, "b d"], zb: Float[Tensor, "b d"], off_diagonal_weight: float
) -> Float[Tensor, ""]:
    """Return sum_i (C_ii - 1)^2 + weight * sum_{i != j} C_ij^2.

    C = Za' Zb / B over the global batch of B rows, each column standardised with its mean and its
    unbiased standard deviation over the global batch.

    Args:
        za: projections of the first view, this rank's rows.
        zb: projections of the second view of the same rows.
        off_diagonal_weight: lambda; the released v1 recipe has 5e-3.

    Returns:
        The global loss, equal on all ranks.

    Raises:
        ValueError: if the two shapes differ or are not (batch, width).

    Source: TESSERA v2, section 4, "Objective and training"; Zbontar et al. 2021.
    """
    _check_pair(za, zb)
    with torch.autocast(za.device.type, enabled=False):
        correlation = _cross_correlation(standardise(za), standardise(zb))
        diagonal = correlation.diagonal()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        return (diagonal - 1).square().sum() + off_diagonal_weight * off_diagonal


def mix_views(
    view_a: Float[Tensor, "b ..."],
    view_b: Float[Tensor, "b ..."],
    partners: Int[Tensor, " b"],
    alpha: float,
) -> Float[Tensor, "b ..."]:
    """Return alpha * a + (1 - alpha) * b[partners], the mixed network input.

    Apply it with the same partners and alpha to values and to days of year of both sensors.

    Args:
        view_a: values or days of the first view.
        view_b: the same of the second view.
        partners: a permutation of the rows; on several processes within the rank's own rows.
        alpha: share of the first view, 0..1, drawn from Beta(1, 1) once a step.
    """
    return alpha * view_a + (1 - alpha) * view_b[partners]


def mixup_consistency(
    z_mixed: Float[Tensor, "b d"],
    za: Float[Tensor, "b d"],
    zb: Float[Tensor, "b d"],
    *,
    partners: Int[Tensor, " b"],
    alpha: float,
    off_diagonal_weight: float,
) -> Float[Tensor, ""]:
    """Ask that the projection of a mixed input correlates as the mix of the projections would.

    With C(x, y) the cross-correlation of standardised projections, the term is
    weight * (|C(m, a) - alpha C(a, a) - (1 - alpha) C(b', a)|^2 + the same against b), where m is
    the mixed projection and b' = zb[partners]. C is linear in its first argument, so both terms are
    found from the one residual m - alpha a - (1 - alpha) b': two products instead of six.

    Args:
        z_mixed: projections of `mix_views(...)`.
        za: projections of the first view.
        zb: projections of the second view.
        partners: the permutation used by `mix_views`.
        alpha: the share used by `mix_views`.
        off_diagonal_weight: lambda of `barlow_twins`, which scales this term too.

    Returns:
        The global term, equal on all ranks; the recipe adds it to `barlow_twins` with factor 1.

    Raises:
        ValueError: if shapes differ or alpha lies outside 0..1.

    Source: Bandara et al. 2023 (Mixed Barlow Twins), as in the TESSERA v1 recipe.
    """
    _check_pair(za, zb)
    _check_pair(za, z_mixed)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"expected a mixing share in 0..1, got {alpha}")
    with torch.autocast(za.device.type, enabled=False):
        a, b = standardise(za), standardise(zb)
        residual = standardise(z_mixed) - alpha * a - (1 - alpha) * b[partners]
        against_a = _cross_correlation(residual, a).square().sum()
        against_b = _cross_correlation(residual, b).square().sum()
        return off_diagonal_weight * (against_a + against_b)


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
    reconstructions = heads(embedding)
    if reconstructions[0].shape != target.shape:
        raise ValueError(
            f"expected targets {tuple(reconstructions[0].shape)}, got {tuple(target.shape)}"
        )
    with torch.autocast(target.device.type, enabled=False):
        goal = _wide(target)
        cosines = [F.cosine_similarity(_wide(r), goal, dim=-1) for r in reconstructions]
        return (1 - torch.stack(cosines)).sum(0).mean()


def standardise(z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Scale each column to mean 0 and unbiased variance 1 over the global batch, in float32."""
    centred, count = centre(z)
    variance = all_reduce_sum(centred.square().sum(0)) / (count - 1)
    return centred * torch.rsqrt(variance + VARIANCE_FLOOR)


def _cross_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Return x' y / B over the global batch; one all-reduce of d * d numbers."""
    rows = all_reduce_sum(x.new_tensor(float(len(x))))
    return all_reduce_sum(x.T @ y) / rows


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"expected two (batch, width) projections, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
