"""Whether an embedding still says anything: effective rank, variance, redundancy.

The one idea: an encoder that has collapsed answers every d-pixel alike, or along few directions,
while its loss may look well. The covariance of a batch shows it, and the covariance is a sum over
rows: it can be gathered over batches, shards and processes, and is exact over all of them.

It deliberately judges nothing: how small a rank is too small is the caller's to say.

Axis words: `b` rows, `d` coordinates of an embedding or a projection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.collective import all_reduce_sum

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

DIAGNOSE_EVERY = 10
"""Steps between looks at the covariance: its eigenvalues cost a few milliseconds."""

DEAD_VARIANCE = 1e-4
"""A coordinate that varies less than this over d-pixels is dead. Embeddings have variance 1 over
their coordinates, so a hundredth in standard deviation is below what int8 codes can tell apart."""


class Moments:
    """Mean and covariance of rows that come in pieces, in float64.

    Args:
        width: Coordinates of a row.

    Raises:
        ValueError: The width is not positive.
    """

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"expected a width of at least 1, got {width}")
        self.count = 0
        """Rows so far."""
        self.mean: Float64[Tensor, " d"] = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows: Float[Tensor, "b d"]) -> None:
        """Take more rows, of any floating type.

        Raises:
            ValueError: They have another width.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"expected rows of width {len(self.mean)}, got {tuple(rows.shape)}")
        if not len(rows):
            return
        wide = rows.detach().to("cpu", torch.float64)
        mean = wide.mean(0)
        centred = wide - mean
        shift, total = mean - self.mean, self.count + len(rows)
        # Sums of squares about the own mean: raw ones would cancel where the mean is large.
        between = torch.outer(shift, shift) * (self.count * len(rows) / total)
        self._scatter += centred.T @ centred + between
        self.mean = self.mean + shift * (len(rows) / total)
        self.count = total

    @classmethod
    def of(
        cls, count: int, mean: Float64[Tensor, " d"], covariance: Float64[Tensor, "d d"]
    ) -> Moments:
        """Return the moments of rows that were taken earlier, from what was kept of them."""
        moments = cls(len(mean))
        moments.count, moments.mean, moments._scatter = count, mean, covariance * count
        return moments

    def merge(self, other: Moments) -> None:
        """Take the rows of other moments of the same width as well."""
        if not other.count:
            return
        shift, total = other.mean - self.mean, self.count + other.count
        between = torch.outer(shift, shift) * (self.count * other.count / total)
        self._scatter = self._scatter + other._scatter + between
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    @property
    def covariance(self) -> Float64[Tensor, "d d"]:
        """Covariance of the rows so far, divided by their number.

        Raises:
            ValueError: There is no row.
        """
        if not self.count:
            raise ValueError("expected at least one row before the covariance is asked for, got 0")
        return self._scatter / self.count

    def over_processes(self, device: torch.device | str = "cpu") -> Moments:
        """Return the moments of the rows of all processes; every process must take part.

        Args:
            device: Where processes exchange: the collectives of GPUs take tensors of GPUs alone.
        """

        def total(part: Tensor) -> Tensor:
            return all_reduce_sum(part.to(device)).cpu()

        weighted = total(torch.cat((self.mean * self.count, self.mean.new_tensor([self.count]))))
        merged = Moments(len(self.mean))
        merged.count = int(weighted[-1])
        merged.mean = weighted[:-1] / max(merged.count, 1)
        shift = self.mean - merged.mean
        merged._scatter = total(self._scatter + torch.outer(shift, shift) * self.count)
        return merged


def effective_rank(covariance: Float[Tensor, "d d"]) -> float:
    """Return over how many directions the rows spread evenly: RankMe, 1 to d, 0 for equal rows.

    The exponential of the entropy of the normalised singular values of the centred rows, which are
    the roots of the covariance's eigenvalues up to a factor. A layer norm without a shift fixes the
    sum of the coordinates, so its output reaches d - 1.

    Raises:
        ValueError: The matrix is not square or not finite.

    Source: Garrido et al. 2023, RankMe, equation 1. Decision: the rows are centred, which the
    source leaves out; a large common offset would hide a collapse to it, or feign one.
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"expected a square covariance, got {tuple(covariance.shape)}")
    if not bool(torch.isfinite(covariance).all()):
        raise ValueError("expected a finite covariance, got NaN or infinity")
    eigenvalues = torch.linalg.eigvalsh(covariance.detach().to("cpu", torch.float64))
    singular = eigenvalues.clamp_min(0.0).sqrt()
    total = float(singular.sum())
    if total == 0.0:
        return 0.0
    return math.exp(float(torch.special.entr(singular / total).sum()))


def spread(covariance: Float[Tensor, "d d"]) -> dict[str, float]:
    """Return what the covariance of an embedding says about collapse.

    Returns:
        `effective_rank`; `effective_rank_share` of the width, 0 to 1; `variance_mean` and
        `variance_min` of the coordinates; `dead_share`, of coordinates below `DEAD_VARIANCE`.
    """
    rank, variance = effective_rank(covariance), covariance.diagonal()
    return {
        "effective_rank": rank,
        "effective_rank_share": rank / len(covariance),
        "variance_mean": float(variance.mean()),
        "variance_min": float(variance.min()),
        "dead_share": float((variance < DEAD_VARIANCE).double().mean()),
    }


def redundancy(correlation: Float[Tensor, "d d"]) -> dict[str, float]:
    """Return what the cross-correlation of two views says about their projections.

    Returns:
        `correlation_diagonal`, the mean agreement of a coordinate with itself in the other view,
        -1 to 1, and `correlation_off_diagonal`, the mean square of all other elements (0 where
        there is one coordinate).
    """
    diagonal = correlation.detach().diagonal()
    width = len(diagonal)
    off = correlation.detach().square().sum() - diagonal.square().sum()
    return {
        "correlation_diagonal": float(diagonal.mean()),
        "correlation_off_diagonal": float(off.clamp_min(0.0)) / max(1, width * (width - 1)),
    }


def diagnose(
    step: int, embedding: Float[Tensor, "b d"], correlation: Float[Tensor, "p p"] | None = None
) -> dict[str, float]:
    """Return the diagnostics of a step over the global batch, equal on every process.

    Nearly free ones at each step, those of the covariance each `DIAGNOSE_EVERY` steps. Every process
    must take part.

    Args:
        step: Counted from 0.
        embedding: Embeddings of one view of this process's rows, with or without a graph.
        correlation: Cross-correlation of the projections of two views over the global batch, where
            there are projections. It is a sum over rows, so it is at hand in any mode of training.
    """
    found = {} if correlation is None else redundancy(correlation)
    if step % DIAGNOSE_EVERY:
        return found
    moments = Moments(embedding.shape[1])
    moments.add(embedding)
    return found | spread(moments.over_processes(embedding.device).covariance)
