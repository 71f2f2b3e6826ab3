"""Views: sparse random subsamples of a year, and whole sensors dropped, for pretraining.

The one idea: positions are drawn first, and only what was drawn is read and scaled; the cost of a
view depends on its length, not on how many observations a d-pixel has. What a row draws depends on
that row's 64-bit seed alone, so the view is the same in whatever batch, rank or process the row
sits, and a resumed run repeats it.

It deliberately does not choose the length (the same for all rows of a step, drawn by the caller)
and does not make seeds: `models.hashing.hash_u64(run, epoch, row, view, sensor)` does.

Axis words: `n` rows drawn for, `slot` places of the view, `band`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from models.buckets import fill_positions
from models.hashing import hash_u64, uniform
from models.pools import Pool, Scale

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int32, Int64, Integer, UInt64

# A part no observation position reaches, so the modality draw shares no bits with the view draw.
_MODALITY = 0x6D6F64616C697479
_LOWER = np.uint64(0xFFFFFFFF)


def draw_view(
    pool: Pool,
    rows: Integer[np.ndarray, " n"],
    length: int,
    seeds: UInt64[np.ndarray, " n"],
    scale: Scale,
) -> tuple[Float32[np.ndarray, "n slot band"], Float32[np.ndarray, "n slot"]]:
    """Draw `length` observations of each row, without replacement, in stored (time) order.

    A d-pixel with fewer observations gives all of them, filled up by the bucket rule. A d-pixel
    with none gives all-zero tokens (values 0, day 0). That equals the single zero token used at
    inference: tokens that are all alike stay alike in every layer, because a weighted mean of
    equal vectors is that vector, and so is the pooled one. So the model needs no padding input.

    Args:
        pool: observations to draw from.
        rows: rows of the pool, in any order.
        length: number of observations L of the view, >= 1; the paper draws 8 or 16 each step.
        seeds: one seed for each row, distinct for the two views and for the two sensors.
        scale: statistics of the sensor; z-scores are those of `models.bands.normalise`, bit for bit.

    Returns:
        Z-scores (n, length, band) and days of year (n, length), float32.

    Raises:
        ValueError: if length is below 1 or there is not one uint64 seed for each row.

    Source: TESSERA v2, section 4, "Objective and training".
    """
    counts = pool.counts[rows]
    total = counts.sum(axis=1)
    shape = (len(total), length, pool.values.shape[1])
    positions = draw_positions(total, length, seeds)
    if not len(pool.doy):
        return np.zeros(shape, np.float32), np.zeros(shape[:2], np.float32)
    second = positions >= counts[:, :1] if counts.shape[1] == 2 else None
    index = _places(pool, rows, counts, positions, second)
    absent = total == 0
    index[absent] = 0  # any place that exists; what is read there is replaced
    values = _scaled(pool.values.take(index.reshape(-1), axis=0).reshape(shape), second, scale)
    doy = pool.doy.take(index).astype(np.float32)
    values[absent], doy[absent] = 0.0, 0.0
    return values, doy


def draw_positions(
    counts: Int64[np.ndarray, " n"], length: int, seeds: UInt64[np.ndarray, " n"]
) -> Int32[np.ndarray, "n slot"]:
    """Return, for each row, which of its observations are drawn: positions below its count.

    With more than `length` observations, every subset of that size is equally likely (to 1 in 10
    million: numbers are drawn from 32 bits), and positions rise. With fewer, all are taken and
    filled up by `models.buckets.resample_indices`; with none, positions are 0.

    Raises:
        ValueError: if length is below 1 or there is not one uint64 seed for each row.
    """
    if length < 1:
        raise ValueError(f"expected a view length >= 1, got {length}")
    if seeds.shape != counts.shape or seeds.dtype != np.uint64:
        raise ValueError(f"expected {len(counts)} uint64 seeds, got {seeds.shape} {seeds.dtype}")
    rich = counts > length
    if rich.all():
        return _random_subset(counts, length, seeds)
    positions: np.ndarray = _filled(length)[np.minimum(counts, length)]
    positions[rich] = _random_subset(counts[rich], length, seeds[rich])
    return positions


def drop_modality(
    seeds: UInt64[np.ndarray, " n"],
    probability: float,
    *,
    has_s2: Bool[np.ndarray, " n"] | None = None,
    has_s1: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Decide for each d-pixel whether a whole sensor is hidden; never both.

    Decision: the paper says "with small probability"; here each sensor is dropped with the given
    probability, the two exclude each other, and a sensor is never dropped where the other one has
    no observation, since a d-pixel with nothing at all has no annual phenology to recover.

    Args:
        seeds: one seed for each row and view.
        probability: chance of dropping Sentinel-2, and equally Sentinel-1, in 0..0.5.
        has_s2: whether each row has Sentinel-2 observations; all have if not given.
        has_s1: likewise for Sentinel-1.

    Returns:
        (drop_s2, drop_s1); replace the tokens of a dropped sensor by zeros (values and days).

    Raises:
        ValueError: if the probability lies outside 0..0.5.
    """
    if not 0.0 <= probability <= 0.5:
        raise ValueError(f"expected a drop probability in 0..0.5, got {probability}")
    draw = uniform(hash_u64(seeds, _MODALITY))
    drop_s2 = draw < probability
    drop_s1 = (draw >= probability) & (draw < 2 * probability)
    if has_s1 is not None:
        drop_s2 &= has_s1
    if has_s2 is not None:
        drop_s1 &= has_s2
    return drop_s2, drop_s1


def _random_subset(
    counts: Int64[np.ndarray, " n"], length: int, seeds: UInt64[np.ndarray, " n"]
) -> Int32[np.ndarray, "n slot"]:
    """Return, per row, `length` distinct positions below its count, rising; counts > length.

    Robert Floyd's algorithm for all rows at once: draw i is among the first count - length + i + 1
    positions, and what was drawn before is replaced by the last of them.

    Source: J. Bentley, R. Floyd, "A sample of brilliance", 1987.
    """
    bits = hash_u64(seeds[None, :], np.arange((length + 1) // 2)[:, None])
    halves = np.stack([bits >> np.uint64(32), bits & _LOWER], axis=1).reshape(
        2 * len(bits), len(counts)
    )
    last = counts.astype(np.uint64) - np.uint64(length)
    among = last + np.arange(1, length + 1, dtype=np.uint64)[:, None]
    drawn = ((halves[:length] * among) >> np.uint64(32)).astype(np.int32)
    for slot in range(1, length):
        taken = (drawn[:slot] == drawn[slot]).any(axis=0)
        drawn[slot, taken] = last[taken] + np.uint64(slot)
    return np.sort(drawn.T, axis=1)


@lru_cache(maxsize=64)
def _filled(length: int) -> np.ndarray:
    """Return the positions of rows with 0..length observations, (length + 1, length) int32."""
    some = fill_positions(np.arange(1, length + 1), length)
    return np.concatenate([np.zeros((1, length), np.int64), some]).astype(np.int32)


def _places(
    pool: Pool,
    rows: np.ndarray,
    counts: np.ndarray,
    positions: np.ndarray,
    second: np.ndarray | None,
) -> np.ndarray:
    """Return where in the pool each row's positions lie."""
    first = pool.first[rows]
    if second is None:
        return np.asarray(positions + first)
    return np.asarray(positions + np.where(second, first[:, 1:] - counts[:, :1], first[:, :1]))


def _scaled(raw: np.ndarray, second: np.ndarray | None, scale: Scale) -> np.ndarray:
    """Return float32 z-scores of raw numbers (n, slot, band)."""
    values = raw.astype(np.float32)
    if second is None:
        # One long axis: numpy is slow where the last one is as short as the bands.
        flat, slots = values.reshape(len(values), -1), values.shape[1]
        flat -= np.tile(scale.mean[0], slots)
        flat /= np.tile(scale.std[0], slots)
    else:
        kind = second.view(np.int8)
        values -= scale.mean.take(kind, axis=0)
        values /= scale.std.take(kind, axis=0)
    return values
