"""Buckets: the few lengths to which the observations of a d-pixel are filled up for batching.

The one idea: a d-pixel with n observations goes to the smallest length of the ladder that holds
them all; free slots repeat observations spread over the year. Nothing is padded with emptiness and
nothing needs a validity input. Repeated slots count in the attention, so another ladder is another
product, and the ladder is stored with every checkpoint.

It deliberately does not run a network: laying d-pixels end to end is `models.packing`.

Axis words: `n` d-pixels, `obs` observations end to end, `slot` places of a bucket, `band`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from models.bands import Normalisation, normalise
from models.dpixel import DPixels, Series, offsets_of

if TYPE_CHECKING:
    from jaxtyping import Int64, Integer


def ladder(step: int, largest: int) -> tuple[int, ...]:
    """Return the bucket lengths step, 2 step, ..., largest.

    The paper's ladder has step 16, the released code's is `ladder(8, 256)`.

    Raises:
        ValueError: if step is not positive or largest is not a positive multiple of it.

    Source: TESSERA v2, section 4, "Adaptive bucket sampling at inference".
    """
    if step < 1 or largest < step or largest % step:
        raise ValueError(f"expected largest to be a multiple of step >= 1, got {step}, {largest}")
    return tuple(range(step, largest + 1, step))


def bucket_of(
    counts: Integer[np.ndarray, " n"], ladder: tuple[int, ...]
) -> Int64[np.ndarray, " n"]:
    """Return the smallest bucket that holds each count; 0 for none, the largest for too many.

    Args:
        counts: numbers of observations, each >= 0.
        ladder: rising bucket lengths, as from `ladder`.

    Raises:
        ValueError: if a count is negative or the ladder is empty or not rising.
    """
    counts = np.asarray(counts)
    lengths = np.asarray(ladder, dtype=np.int64)
    if not len(lengths) or np.any(np.diff(lengths, prepend=0) <= 0):
        raise ValueError(f"expected rising positive bucket lengths, got {ladder}")
    if counts.size and counts.min() < 0:
        raise ValueError(f"expected counts >= 0, got {counts.min()}")
    place = np.minimum(np.searchsorted(lengths, counts), len(lengths) - 1)
    return np.where(counts == 0, 0, lengths[place])


@lru_cache(maxsize=4096)
def resample_indices(n: int, bucket: int) -> Int64[np.ndarray, " slot"]:
    """Return which of n observations fill the slots of a bucket.

    With n <= bucket every observation is kept, in order, and the r = bucket - n free slots follow:
    for r <= n the middle of each of r nearly equal consecutive groups (larger groups first), for
    r > n the observations again from the first on. With n > bucket the slots are spread evenly over
    the year and some observations are left out; choose a ladder long enough to avoid that.

    Decision: the paper says "midpoint resampling" and no more; this is the released code's rule,
    index for index. It includes truncating a float64 `linspace`, which exact integer division does
    not reproduce for 124 of the lengths in 257..2999.

    Args:
        n: number of observations, >= 1.
        bucket: number of slots, >= 1.

    Returns:
        Int64 positions in 0..n-1, read-only because the result is shared.

    Raises:
        ValueError: if n or bucket is below 1. No observation has no index: see `models.encode`.
    """
    if n < 1 or bucket < 1:
        raise ValueError(f"expected n >= 1 and bucket >= 1, got n={n}, bucket={bucket}")
    free = bucket - n
    if free <= 0:
        indices = np.linspace(0, n - 1, bucket).astype(np.int64)
    elif free <= n:
        sizes = np.full(free, n // free) + (np.arange(free) < n % free)
        middles = np.cumsum(sizes) - sizes + sizes // 2
        indices = np.concatenate([np.arange(n), middles])
    else:
        indices = np.arange(bucket) % n
    indices.flags.writeable = False
    return indices


def fill_positions(counts: Integer[np.ndarray, " n"], bucket: int) -> Int64[np.ndarray, "n slot"]:
    """Return `resample_indices(count, bucket)` for each count, as one matrix.

    Raises:
        ValueError: if a count is below 1.
    """
    distinct, which = np.unique(np.asarray(counts), return_inverse=True)
    rules = [resample_indices(int(count), bucket) for count in distinct]
    return np.asarray(rules, dtype=np.int64).reshape(-1, bucket)[which]


def normalised_s2(dpixels: DPixels, normalisation: Normalisation) -> Series:
    """Return the Sentinel-2 series as float32 z-scores."""
    s2 = dpixels.s2
    values = normalise(s2.values, normalisation.s2_mean, normalisation.s2_std)
    return Series(values, s2.doy, s2.offsets)


def merge_s1(dpixels: DPixels, normalisation: Normalisation) -> Series:
    """Return both orbit directions as one series of float32 z-scores.

    Each d-pixel's observations are all its ascending ones, then all its descending ones, each in
    time order; they are not sorted again by date, as in the released code. Each direction is scaled
    by its own statistics (equal ones for the teacher, see `models.bands`).
    """
    asc, desc = dpixels.s1_asc, dpixels.s1_desc
    offsets = offsets_of(dpixels.s1_counts)
    asc_at = np.arange(len(asc.doy)) + np.repeat(offsets[:-1] - asc.offsets[:-1], asc.counts)
    desc_shift = offsets[:-1] + asc.counts - desc.offsets[:-1]
    desc_at = np.arange(len(desc.doy)) + np.repeat(desc_shift, desc.counts)

    values = np.empty((offsets[-1], asc.values.shape[1]), dtype=np.float32)
    values[asc_at] = normalise(asc.values, normalisation.s1_asc_mean, normalisation.s1_asc_std)
    values[desc_at] = normalise(desc.values, normalisation.s1_desc_mean, normalisation.s1_desc_std)
    doy = np.empty(offsets[-1], dtype=np.int16)
    doy[asc_at] = asc.doy
    doy[desc_at] = desc.doy
    return Series(values, doy, offsets)
