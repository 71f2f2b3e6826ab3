"""Statistics of a corpus, exactly: whole numbers are counted, and divided once at the end.

The one idea: a band of 16-bit numbers is known completely by how often each number occurs, so one
count gives sum, sum of squares, extremes and histogram, and counts of parts add up to those of the
whole in any order, without rounding.

    statistics.json    {"format", "dpixels", "sensors": {<sensor>: {"observations", "days" [366],
                        "observations_per_dpixel" {min, p05, median, p95, max, mean}, "bands"
                        {<band>: {sum, sum_of_squares, min, max, mean, std, histogram [256]}}}}}

Bins are equal, over 0..65535 for Sentinel-2 and 0..32767 for Sentinel-1. What was never observed has
null for extremes, mean and std.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series
from tasks.errors import DataError

STATISTICS = "statistics.json"
FORMAT = "tessera-statistics/1"
SENSORS = {
    "s2": (S2_BANDS, 1 << 16),
    "s1_asc": (S1_BANDS, 1 << 15),
    "s1_desc": (S1_BANDS, 1 << 15),
}
"""Bands of each sensor, and how many different numbers they may have."""

_BINS = 256
_DAYS = 366
_TOGETHER = 1 << 16  # observations counted at once: they and their copy stay in the cache
_ORDER = {"p05": 0.05, "median": 0.5, "p95": 0.95}

Facts = dict[str, Any]


def tally(dpixels: DPixels) -> Facts:
    """Count a part of a corpus.

    Returns:
        By sensor: observations, days (366 counts), rows (d-pixels by their number of observations)
        and bands, each with sum, sum_of_squares, min, max and histogram.

    Raises:
        DataError: A radar code is negative.
    """
    return {name: _sensor(name, getattr(dpixels, name)) for name in SENSORS}


def _sensor(name: str, series: Series) -> Facts:
    bands, levels = SENSORS[name]
    if series.values.min(initial=0) < 0:
        raise DataError(
            f"radar codes of 0..{levels - 1}",
            found=str(series.values.min()),
            where=f"{name} of the corpus",
            mend="Correct the archive: `tessera run` names the file when it validates.",
        )
    counts = np.zeros((len(bands), levels), np.int64)
    for start in range(0, len(series.doy), _TOGETHER):
        part = series.values[start : start + _TOGETHER]
        for number, of_band in enumerate(counts):
            found = np.bincount(part[:, number])
            of_band[: len(found)] += found
    rows = np.bincount(series.counts)
    return {
        "observations": len(series.doy),
        "days": np.bincount(series.doy, minlength=_DAYS + 1)[1:].tolist(),
        "rows": {str(count): int(rows[count]) for count in np.flatnonzero(rows)},
        "bands": {band: _band(c) for band, c in zip(bands, counts, strict=True)},
    }


def _band(counts: npt.NDArray[np.int64]) -> Facts:
    levels = np.flatnonzero(counts)
    present = counts[levels]
    return {
        "sum": int(levels @ present),
        "sum_of_squares": int((levels**2) @ present),
        "min": int(levels[0]) if len(levels) else None,
        "max": int(levels[-1]) if len(levels) else None,
        "histogram": counts.reshape(_BINS, -1).sum(axis=1).tolist(),
    }


def merge(parts: Iterable[Facts]) -> Facts:
    """Add up what ``tally`` counted in the parts of a corpus (at least one)."""
    whole: Facts = {}
    for part in parts:
        whole = {name: _add(whole[name], part[name]) for name in SENSORS} if whole else part
    return whole


def _add(a: Any, b: Any, name: str = "") -> Any:
    """Add counts, lists of counts and tables of counts; extremes are compared."""
    if isinstance(a, dict) and isinstance(b, dict):
        return {k: _add(a[k], b[k], k) if k in a and k in b else a.get(k, b.get(k)) for k in a | b}
    if isinstance(a, list):
        return [x + y for x, y in zip(a, b, strict=True)]
    if a is None or b is None:
        return b if a is None else a
    return {"min": min, "max": max}.get(name, int.__add__)(a, b)


def summarise(dpixels: int, merged: Facts) -> Facts:
    """Return the content of ``statistics.json``."""
    sensors = {
        name: {
            "observations": facts["observations"],
            "days": facts["days"],
            "observations_per_dpixel": _per_dpixel(facts["rows"]),
            "bands": {
                band: counts | _moments(facts["observations"], counts)
                for band, counts in facts["bands"].items()
            },
        }
        for name, facts in merged.items()
    }
    return {"format": FORMAT, "dpixels": dpixels, "sensors": sensors}


def _moments(num: int, counts: Facts) -> Facts:
    """Return mean and population standard deviation, rounded once."""
    if not num:
        return {"mean": None, "std": None}
    total, squares = counts["sum"], counts["sum_of_squares"]
    return {
        "mean": total / num,
        "std": math.sqrt((num * squares - total * total) / (num * num)),
    }


def _per_dpixel(rows: dict[str, int]) -> Facts:
    """Describe how many observations d-pixels have; a quantile is a number that one of them has."""
    present = sorted((int(count), number) for count, number in rows.items())
    counts, numbers = (np.array(column) for column in zip(*present, strict=True))
    below, total = np.cumsum(numbers), int(numbers.sum())
    quantiles = {
        name: int(counts[np.searchsorted(below, share * total)]) for name, share in _ORDER.items()
    }
    mean = int(counts @ numbers) / total
    return {"min": int(counts[0]), "max": int(counts[-1]), "mean": mean} | quantiles
