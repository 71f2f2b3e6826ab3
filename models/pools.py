"""Pools: the raw observations of many d-pixels in flat arrays, where views are drawn from them.

The one idea: what a training holds in memory is a pool a sensor, as packed, and statistics are
applied to what was drawn and to nothing else.

It deliberately does not draw: that is `models.views`.

Axis words: `n` rows, `obs` observations end to end, `band`, `kind` kinds of observation with
statistics of their own: one for Sentinel-2, the two orbit directions for Sentinel-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.bands import STD_FLOOR, Normalisation
from models.dpixel import DPixels, Series, offsets_of

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64, Integer


@dataclass(frozen=True, eq=False)
class Pool:
    """The raw observations of one sensor for many d-pixels, where they can be drawn from.

    A row's observations are those of its first kind and then those of its second, each in time
    order. Decision: so radar is in time order within each orbit direction and not across both, as
    `models.buckets.merge_s1` and the released code have it.
    """

    values: Integer[np.ndarray, "obs band"]
    """Raw numbers: all observations of the first kind, then all of the second."""
    doy: Integer[np.ndarray, " obs"]
    """Day of year of each observation, 1..366."""
    first: Int64[np.ndarray, "n kind"]
    """Where the observations of each row and kind begin."""
    counts: Int64[np.ndarray, "n kind"]
    """How many they are."""

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        return sum(a.nbytes for a in (self.values, self.doy, self.first, self.counts))


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and standard deviation of a sensor's bands, one row a kind of observation."""

    mean: Float32[np.ndarray, "kind band"]
    std: Float32[np.ndarray, "kind band"]


def pool_s2(blocks: Sequence[DPixels]) -> Pool:
    """Join the Sentinel-2 observations of blocks of d-pixels."""
    return _pool([[block.s2 for block in blocks]])


def pool_s1(blocks: Sequence[DPixels]) -> Pool:
    """Join the Sentinel-1 observations of blocks of d-pixels, ascending before descending."""
    return _pool([[block.s1_asc for block in blocks], [block.s1_desc for block in blocks]])


def scales(normalisation: Normalisation) -> tuple[Scale, Scale]:
    """Return the scales of Sentinel-2 and Sentinel-1."""
    n = normalisation
    s2 = _scale([n.s2_mean], [n.s2_std])
    return s2, _scale([n.s1_asc_mean, n.s1_desc_mean], [n.s1_asc_std, n.s1_desc_std])


def _pool(kinds: Sequence[Sequence[Series]]) -> Pool:
    series = [one for kind in kinds for one in kind]
    counts = np.stack([np.concatenate([one.counts for one in kind]) for kind in kinds], axis=1)
    first = offsets_of(counts.T.reshape(-1))[:-1].reshape(len(kinds), -1).T
    return Pool(
        np.concatenate([one.values for one in series]),
        np.concatenate([one.doy for one in series]),
        np.ascontiguousarray(first),
        counts,
    )


def _scale(mean: Sequence[tuple[float, ...]], std: Sequence[tuple[float, ...]]) -> Scale:
    return Scale(
        np.asarray(mean, dtype=np.float32), (np.asarray(std) + STD_FLOOR).astype(np.float32)
    )
