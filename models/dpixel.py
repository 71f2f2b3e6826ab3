"""The d-pixel: one year of Sentinel-1 and Sentinel-2 observations of one 10 m pixel, ragged.

The one idea: only valid observations are inside. There is no validity array and no padding to get
wrong; a d-pixel without optical data simply has zero of them. Many d-pixels lie end to end in one
array with row offsets, so every operation is vectorised over a block of them.

It deliberately keeps the raw stored numbers (uint16 digital numbers, int16 coded decibels):
scaling belongs to a model, not to the data.

Axis words: `obs` all observations of all d-pixels end to end, `band`, `n` the d-pixels (rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.bands import S1_BANDS, S2_BANDS

if TYPE_CHECKING:
    from jaxtyping import Int64, Integer, Shaped, UInt64


@dataclass(frozen=True, eq=False)
class Series:
    """The observations of one sensor for a block of d-pixels, row after row, in time order.

    Raises:
        ValueError: if lengths disagree, offsets are not a rising sequence from 0 to the number of
            observations, or a day of year lies outside 1..366.
    """

    values: Shaped[np.ndarray, "obs band"]
    """Raw numbers, or float32 z-scores once normalised."""
    doy: Integer[np.ndarray, " obs"]
    """Day of year of each observation, 1..366."""
    offsets: Int64[np.ndarray, " n_plus_1"]
    """Row i owns the observations offsets[i] to offsets[i + 1], int64."""

    def __post_init__(self) -> None:
        num_obs = len(self.doy)
        if self.values.ndim != 2 or self.doy.ndim != 1 or len(self.values) != num_obs:
            raise ValueError(
                "expected values (obs, band) and doy (obs,) of one length, "
                f"got {self.values.shape} and {self.doy.shape}"
            )
        _check_offsets(self.offsets, num_obs)
        if self.doy.dtype.kind not in "iu":
            raise ValueError(f"expected whole days of year, got dtype {self.doy.dtype}")
        if num_obs and not (self.doy.min() >= 1 and self.doy.max() <= 366):
            raise ValueError(
                f"expected days of year in 1..366, got {self.doy.min()}..{self.doy.max()}"
            )

    def __len__(self) -> int:
        """Return the number of d-pixels."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> Int64[np.ndarray, " n"]:
        """Number of observations of each d-pixel."""
        return np.diff(self.offsets)

    def take(self, rows: Integer[np.ndarray, " m"]) -> "Series":
        """Return the chosen d-pixels, in the chosen order, as a new block (a copy)."""
        rows = np.asarray(rows, dtype=np.int64)
        counts = self.counts[rows]
        offsets = offsets_of(counts)
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        return Series(self.values[index], self.doy[index], offsets)

    def slice(self, start: int, stop: int) -> "Series":
        """Return the d-pixels start to stop as views of the same memory."""
        offsets = self.offsets[start : stop + 1]
        inside = slice(int(offsets[0]), int(offsets[-1]))
        return Series(self.values[inside], self.doy[inside], offsets - offsets[0])


@dataclass(frozen=True, eq=False)
class DPixels:
    """A block of d-pixels: the two sensors, with Sentinel-1 kept apart by orbit direction.

    Raises:
        ValueError: if the three series and the identifiers differ in length, a sensor has the
            wrong number of bands, or values are not raw (uint16 Sentinel-2, int16 Sentinel-1).
    """

    pixel_id: UInt64[np.ndarray, " n"]
    """Identifier of each d-pixel, unique within its archive."""
    s2: Series
    """Sentinel-2 digital numbers, bands in `S2_BANDS` order, uint16."""
    s1_asc: Series
    """Ascending Sentinel-1, coded decibels, bands in `S1_BANDS` order, int16; 0 in both: absent."""
    s1_desc: Series
    """Descending Sentinel-1, likewise."""

    def __post_init__(self) -> None:
        if self.pixel_id.ndim != 1 or self.pixel_id.dtype != np.uint64:
            raise ValueError(
                f"expected pixel_id (n,) uint64, got {self.pixel_id.shape} {self.pixel_id.dtype}"
            )
        self._check("s2", self.s2, S2_BANDS, np.dtype(np.uint16))
        self._check("s1_asc", self.s1_asc, S1_BANDS, np.dtype(np.int16))
        self._check("s1_desc", self.s1_desc, S1_BANDS, np.dtype(np.int16))

    def __len__(self) -> int:
        """Return the number of d-pixels."""
        return len(self.pixel_id)

    @property
    def s1_counts(self) -> Int64[np.ndarray, " n"]:
        """Number of Sentinel-1 observations of each d-pixel, both orbit directions together."""
        counts: np.ndarray = self.s1_asc.counts + self.s1_desc.counts
        return counts

    def take(self, rows: Integer[np.ndarray, " m"]) -> "DPixels":
        """Return the chosen d-pixels, in the chosen order, as a new block (a copy)."""
        rows = np.asarray(rows, dtype=np.int64)
        return DPixels(
            self.pixel_id[rows], self.s2.take(rows), self.s1_asc.take(rows), self.s1_desc.take(rows)
        )

    def slice(self, start: int, stop: int) -> "DPixels":
        """Return the d-pixels start to stop as views of the same memory."""
        return DPixels(
            self.pixel_id[start:stop],
            self.s2.slice(start, stop),
            self.s1_asc.slice(start, stop),
            self.s1_desc.slice(start, stop),
        )

    @staticmethod
    def concatenate(blocks: Sequence["DPixels"]) -> "DPixels":
        """Join blocks end to end, keeping their order.

        Raises:
            ValueError: if there is no block.
        """
        if not blocks:
            raise ValueError("expected at least one block of d-pixels, got none")
        return DPixels(
            np.concatenate([block.pixel_id for block in blocks]),
            _join([block.s2 for block in blocks]),
            _join([block.s1_asc for block in blocks]),
            _join([block.s1_desc for block in blocks]),
        )

    def _check(self, name: str, series: Series, bands: tuple[str, ...], raw: np.dtype) -> None:
        if len(series) != len(self):
            raise ValueError(f"{name}: expected {len(self)} d-pixels, got {len(series)}")
        if series.values.shape[1] != len(bands):
            raise ValueError(
                f"{name}: expected {len(bands)} bands in the order {' '.join(bands)}, "
                f"got {series.values.shape[1]}"
            )
        if series.values.dtype != raw:
            raise ValueError(f"{name}: expected raw {raw} values, got {series.values.dtype}")


def offsets_of(counts: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " n_plus_1"]:
    """Return the row offsets of a ragged array with these counts: 0 and the running sums."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _check_offsets(offsets: np.ndarray, num_obs: int) -> None:
    if offsets.ndim != 1 or len(offsets) == 0 or offsets.dtype != np.int64:
        raise ValueError(f"expected offsets (n + 1,) int64, got {offsets.shape} {offsets.dtype}")
    if offsets[0] != 0 or offsets[-1] != num_obs or np.any(np.diff(offsets) < 0):
        raise ValueError(
            f"expected offsets rising from 0 to {num_obs}, got {offsets[0]} to {offsets[-1]}"
        )


def _join(parts: Sequence[Series]) -> Series:
    return Series(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.doy for part in parts]),
        offsets_of(np.concatenate([part.counts for part in parts])),
    )
