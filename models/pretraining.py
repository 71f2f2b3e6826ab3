"""What pretraining trains: a teacher with its projector, from two views to the losses of a step.

The one idea: encoding is row by row, the rest is a computation in stages over the whole batch. One
`forward` does either or both, so that an engine which shards the weights sees ordinary calls of one
module, in a single pass as in a replay (`models.replay`).

It deliberately does not draw views (`models.views`) and knows no schedule; the mixing share of a
step is an argument.

Axis words: `view` (first, second, mixed), `b` local batch, `repr` embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from models.architecture import TeacherConfig
from models.losses import Twins, barlow_twins, mix_views
from models.stages import Staged, together
from models.teacher import Projector, Teacher

if TYPE_CHECKING:
    from jaxtyping import Float

View = tuple[Tensor, Tensor, Tensor, Tensor]
"""What an encoder reads: Sentinel-2 values and days, Sentinel-1 values and days."""

Pair = tuple[View, View]
"""Two views of the same rows."""


class Losses(NamedTuple):
    """The losses of a step over the global batch, equal on all ranks, and the rows that they are of.

    A tuple, since engines that shard weights find tensors in tuples, lists and dicts alone.
    """

    loss: Float[Tensor, ""]
    """What is differentiated: twins + mixup_weight * mixup + the sum of the prefix losses."""
    twins: Twins
    """Barlow Twins on the whole embedding, with the mix-up term."""
    prefixes: dict[int, Twins]
    """Barlow Twins on prefixes; see `TeacherWithProjector`."""
    embedding: Float[Tensor, "b repr"]
    """Embeddings of the first view of the rows at hand, without a graph."""


class TeacherWithProjector(nn.Module):
    """Encoder and heads as one module, with the losses of a step.

    Decision: a prefix loss is Barlow Twins, with the weight 1, on the projections of the first k
    coordinates by a projector of their own, of the same width and depth; the mix-up term stays with
    the whole embedding. The paper tried prefix losses and gives no formula. A shared projector would
    tie the prefixes to each other by more than the embedding.

    Args:
        architecture: of the teacher.
        projector: width and number of layers.
        off_diagonal_weight: lambda of the Barlow Twins loss.
        mixup_weight: of the mix-up term; with 0 the mixed view is not computed at all.
        prefixes: lengths that get a loss of their own; none in the published recipe.
        rows_at_once: rows of one forward pass of the encoder, 0 for all. The graph of all is kept;
            small pieces stay in the processor's cache.

    Raises:
        ValueError: if a prefix is not shorter than the embedding.
    """

    def __init__(
        self,
        architecture: TeacherConfig,
        *,
        projector: tuple[int, int],
        off_diagonal_weight: float,
        mixup_weight: float,
        prefixes: tuple[int, ...] = (),
        rows_at_once: int = 0,
    ) -> None:
        super().__init__()
        if any(not 0 < k < architecture.repr_dim for k in prefixes):
            raise ValueError(
                f"expected prefixes between 1 and {architecture.repr_dim - 1}, got {prefixes}"
            )
        self.off_diagonal_weight, self.mixup_weight = off_diagonal_weight, mixup_weight
        self.rows_at_once = rows_at_once
        self.teacher = Teacher(architecture)
        self.projector = Projector(architecture.repr_dim, *projector)
        self.prefixes = prefixes
        self.prefix_projectors = nn.ModuleList([Projector(k, *projector) for k in prefixes])

    def forward(
        self,
        rows: Pair | Float[Tensor, "view b repr"],
        drive: Callable[[Staged[Losses]], Any] | None = None,
        *,
        alpha: float,
    ) -> Any:
        """Return embeddings, or what `drive` makes of the losses' computation in stages.

        Args:
            rows: two views of a batch, or the embeddings of its views.
            drive: carries the computation out, e.g. `models.stages.whole`; without it the
                embeddings (view, b, repr) are returned.
            alpha: share of the first view in the mixed one.
        """
        embeddings = rows if isinstance(rows, Tensor) else self._embed(rows, alpha)
        return embeddings if drive is None else drive(self._losses(embeddings, alpha))

    def _embed(self, pair: Pair, alpha: float) -> Float[Tensor, "view b repr"]:
        view_a, view_b = pair
        views = [view_a, view_b]
        if self.mixup_weight:
            mixed = (mix_views(a, b, alpha) for a, b in zip(view_a, view_b, strict=True))
            views.append((next(mixed), next(mixed), next(mixed), next(mixed)))
        return torch.stack([self._encode(view) for view in views])

    def _encode(self, view: View) -> Float[Tensor, "b repr"]:
        size = self.rows_at_once or len(view[0])
        pieces = zip(*(torch.split(part, size) for part in view), strict=True)
        return torch.cat([self.teacher(*piece) for piece in pieces])

    def _losses(self, embeddings: Float[Tensor, "view b repr"], alpha: float) -> Staged[Losses]:
        mixing = alpha if self.mixup_weight else None
        heads = [self._compare(self.projector, embeddings, mixing)]
        for k, projector in zip(self.prefixes, self.prefix_projectors, strict=True):
            heads.append(self._compare(projector, embeddings[:2, :, :k], None))
        twins, *rest = yield from together(heads)
        loss = twins.loss + sum(prefix.loss for prefix in rest)
        if twins.mixup is not None:
            loss = loss + self.mixup_weight * twins.mixup
        prefixes = dict(zip(self.prefixes, rest, strict=True))
        return Losses(loss, twins, prefixes, embeddings[0].detach())

    def _compare(self, projector: Any, embeddings: Tensor, alpha: float | None) -> Staged[Twins]:
        z = yield from projector.stages(embeddings)
        return (yield from barlow_twins(z, self.off_diagonal_weight, alpha))


def split_pair(pair: Pair, size: int) -> list[Pair]:
    """Cut two views into micro-batches of `size` rows; the last one has what is left.

    Raises:
        ValueError: if the size is odd: rows are mixed in pairs, which must not be parted.
    """
    if size < 2 or size % 2:
        raise ValueError(f"expected micro-batches of an even number of rows, got {size}")
    first, second = (zip(*(torch.split(t, size) for t in view), strict=True) for view in pair)
    return list(zip(first, second, strict=True))
