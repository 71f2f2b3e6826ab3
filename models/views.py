"""Views: sparse random subsamples of a year, and whole sensors dropped, for pretraining.

The one idea: what a row draws depends on that row's 64-bit seed alone. Every observation gets a
random key, a pure function of (seed, position); the `length` smallest keys are the view. So the
view is the same in whatever batch, rank or process the row sits, and a resumed run repeats it.

It deliberately does not choose the length (the same for all rows of a step, drawn by the caller)
and does not make seeds: `models.hashing.hash_u64(run, epoch, pixel_id, view, sensor)` does.

Axis words: `n` d-pixels, `slot` places of the view, `band`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.buckets import fill_positions, gather
from models.dpixel import Series
from models.hashing import hash_u64, uniform

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64, UInt64

# A part no observation position reaches, so the modality draw shares no bits with the view draw.
_MODALITY = 0x6D6F64616C697479


def draw_view(
    series: Series, length: int, seeds: UInt64[np.ndarray, " n"]
) -> tuple[Float32[np.ndarray, "n length band"], Float32[np.ndarray, "n length"]]:
    """Draw `length` observations of each d-pixel, without replacement, in stored (time) order.

    A d-pixel with fewer observations gives all of them, filled up by the bucket rule. A d-pixel
    with none gives all-zero tokens (values 0, day 0). That equals the single zero token used at
    inference: tokens that are all alike stay alike in every layer, because a weighted mean of
    equal vectors is that vector, and so is the pooled one. So the model needs no padding input.

    Args:
        series: normalised series of n d-pixels.
        length: number of observations L of the view, >= 1; the paper draws 8 or 16 each step.
        seeds: one seed for each row, distinct for the two views and for the two sensors.

    Returns:
        Values (n, length, band) and days of year (n, length), float32.

    Raises:
        ValueError: if length is below 1 or there is not one uint64 seed for each d-pixel.

    Source: TESSERA v2, section 4, "Objective and training".
    """
    counts = series.counts
    if length < 1:
        raise ValueError(f"expected a view length >= 1, got {length}")
    if seeds.shape != counts.shape or seeds.dtype != np.uint64:
        raise ValueError(f"expected {len(counts)} uint64 seeds, got {seeds.shape} {seeds.dtype}")
    values = np.zeros((len(counts), length, series.values.shape[1]), dtype=np.float32)
    doy = np.zeros((len(counts), length), dtype=np.float32)

    rich = np.flatnonzero(counts > length)
    positions = _random_subset(counts[rich], length, seeds[rich])
    values[rich], doy[rich] = gather(series, rich, positions)

    poor = np.flatnonzero((counts > 0) & (counts <= length))
    values[poor], doy[poor] = gather(series, poor, fill_positions(counts[poor], length))
    return values, doy


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
) -> Int64[np.ndarray, "n length"]:
    """Return, per row, `length` distinct positions below its count, ascending; counts > length."""
    widest = int(counts.max(initial=length + 1))
    position = np.arange(widest)
    keys = hash_u64(seeds[:, None], position[None, :]) >> np.uint64(1)
    # Real keys have a zero top bit, so an absent observation can never be among the smallest.
    keys[position[None, :] >= counts[:, None]] = np.uint64(2**64 - 1)
    chosen = np.argpartition(keys, length - 1, axis=1)[:, :length]
    return np.sort(chosen, axis=1)
