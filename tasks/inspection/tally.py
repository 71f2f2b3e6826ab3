"""Count observations and ranges of one sensor, part by part, in memory that does not grow."""

from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels
from tasks.inspection.finding import Row

SENSORS = {"optical": S2_BANDS, "ascending": S1_BANDS, "descending": S1_BANDS}
"""Bands of each series of a d-pixel."""
_STREAMS = {"optical": "s2", "ascending": "s1_asc", "descending": "s1_desc"}


class Tally:
    """What is counted of one series.

    Args:
        series: A key of ``SENSORS``.
    """

    def __init__(self, series: str) -> None:
        self.series, self.bands = series, SENSORS[series]
        self._pixels_with = np.zeros(1, np.int64)  # pixels by their number of observations
        self._days: list[int] = []
        self._num, self._sum = 0, np.zeros(len(self.bands))
        self._low = np.full(len(self.bands), np.inf)
        self._high = np.full(len(self.bands), -np.inf)

    def add_values(self, values: npt.NDArray[Any], days: npt.NDArray[Any]) -> None:
        """Add usable observations: numbers (n, band), and the days that they are of."""
        if not len(values):
            return
        self._low = np.minimum(self._low, values.min(axis=0))
        self._high = np.maximum(self._high, values.max(axis=0))
        self._sum += values.sum(axis=0, dtype=np.float64)
        self._num += len(values)
        self._days = (
            [min(*self._days, int(days.min())), max(*self._days, int(days.max()))]
            if self._days
            else [int(days.min()), int(days.max())]
        )

    def add_counts(self, counts: npt.NDArray[Any]) -> None:
        """Add pixels by their number of usable observations, integers (n,)."""
        found = np.bincount(counts.ravel().astype(np.int64), minlength=len(self._pixels_with))
        found[: len(self._pixels_with)] += self._pixels_with
        self._pixels_with = found

    @property
    def observations(self) -> int:
        """Usable observations in all."""
        return self._num

    def row(self) -> Row:
        """Return the line of the series: observations, first and last day, and per pixel."""
        first, last = self._days or (None, None)
        running, total = np.cumsum(self._pixels_with), int(self._pixels_with.sum())
        present = np.flatnonzero(self._pixels_with)
        middle = int(np.searchsorted(running, (total + 1) // 2)) if total else None
        return {
            "series": self.series,
            "observations": self._num,
            "first day": first,
            "last day": last,
            "fewest per pixel": int(present[0]) if total else None,
            "median": middle,
            "most": int(present[-1]) if total else None,
        }

    def band_rows(self) -> list[Row]:
        """Return a line a band: lowest, mean and highest stored number of usable observations."""
        if not self._num:
            return []
        columns = zip(self.bands, self._low, self._sum / self._num, self._high, strict=True)
        return [
            {
                "series": self.series,
                "band": band,
                "lowest": float(low),
                "mean": float(mean),
                "highest": float(high),
            }
            for band, low, mean, high in columns
        ]


class BlockTally:
    """The three series of d-pixels that come in blocks."""

    def __init__(self) -> None:
        self._tallies = {series: Tally(series) for series in SENSORS}
        self.rows = self.unobserved = 0

    def add(self, dpixels: DPixels) -> None:
        """Add a block."""
        self.rows += len(dpixels)
        self.unobserved += int(((dpixels.s2.counts == 0) & (dpixels.s1_counts == 0)).sum())
        for series, tally in self._tallies.items():
            stream = getattr(dpixels, _STREAMS[series])
            tally.add_values(stream.values, stream.doy)
            tally.add_counts(stream.counts)

    def tables(self) -> dict[str, list[Row]]:
        """Return the tables of a finding."""
        return tables_of(list(self._tallies.values()))


def tables_of(tallies: list[Tally]) -> dict[str, list[Row]]:
    """Return the tables of a finding: one line a series, one line a band."""
    return {
        "Observations (usable ones)": [tally.row() for tally in tallies],
        "Numbers as stored (usable observations)": [
            row for tally in tallies for row in tally.band_rows()
        ],
    }
