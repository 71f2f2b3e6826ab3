"""Check every observation of a block of d-pixels, at the speed at which memory is read.

The one idea: a clean block has to be read, not searched. Each check first asks for one number that
only a fault can change, such as the smallest digital number, and looks for places only where that
number says that there are some. Observations are gone through in pieces that stay in the processor's
cache, so all checks and the sums of the bands together cost one pass over memory.

It counts and names; what is too many is said in ``tasks.validation.checks``. Whether the numbers look
like land is not asked here: see ``tasks.validation.optical``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels, Series

S2, S1_ASC, S1_DESC = "s2", "s1_asc", "s1_desc"
KINDS = (
    *("unordered", "repeated", "zero_dn", "negative_code", "saturated", "empty_radar"),
    *("duplicate_ids", "thin"),
)
"""Kinds of fault: those of single observations, then those of whole rows."""

SATURATED = np.iinfo(np.int16).max
"""A radar code at its limit, 57 dB: nothing on the ground scatters like that."""

_BRIGHT_DN = 1200  # a 0 beside a number above it is no measurement; over water it is one
_PIECE_BYTES = 1 << 20  # and as much again to work with: both stay in the cache
_LANE_WORDS = 1280  # added side by side: long enough for wide instructions
_BIAS = 0x80008000  # turns two signed 16-bit numbers into unsigned ones that are 32,768 larger

Array = npt.NDArray[Any]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault in one sensor's observations."""

    kind: str
    """One of ``KINDS``."""
    sensor: str
    """``s2``, ``s1_asc`` or ``s1_desc``; empty for whole rows."""
    count: int
    """Observations with the fault, or rows; at least 1."""
    row: int
    """First row that has it."""
    observation: int
    """Number of the first such observation in that row, from 0; -1 for whole rows."""

    def __str__(self) -> str:
        place = f"row {self.row}"
        if self.observation < 0:
            return place
        return f"{self.sensor} {place} observation {self.observation}"


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over a block found."""

    sums: dict[str, npt.NDArray[np.int64]]
    """Sum of each band over all observations, by sensor: exact."""
    observations: dict[str, int]
    """How many there were, by sensor."""
    faults: tuple[Fault, ...]
    """Faults by sensor and kind; empty for a clean block."""

    def count(self, kind: str) -> int:
        """Return how many observations (or rows) of all sensors have a kind of fault."""
        return sum(fault.count for fault in self.faults if fault.kind == kind)

    def first(self, kind: str) -> str:
        """Say where a kind of fault is first met; empty where it is not."""
        return next((str(fault) for fault in self.faults if fault.kind == kind), "")


def scan(dpixels: DPixels, *, min_s2: int = 0, min_s1: int = 0) -> Scan:
    """Go once over a block of any size, e.g. a mapped shard; memory stays constant.

    Args:
        dpixels: The block.
        min_s2: Fewest optical observations of a row that is not thin.
        min_s1: Fewest radar observations, both orbits together.

    Returns:
        The sums of the bands and the faults. A row without any observation is thin in any case.
    """
    sums, observations = {}, {}
    faults = [*_row_faults(dpixels, min_s2, min_s1)]
    for sensor in (S2, S1_ASC, S1_DESC):
        series: Series = getattr(dpixels, sensor)
        observations[sensor] = len(series.doy)
        sums[sensor], found = _scan_series(series, _OPTICAL if sensor == S2 else _RADAR)
        found["unordered"] = _not_rising(series)
        faults += [_fault(kind, sensor, series, at) for kind, at in found.items() if len(at)]
    return Scan(sums, observations, tuple(faults))


def join(parts: Iterable[tuple[int, Scan]]) -> Scan:
    """Return what the blocks of one source come to; at least one.

    Args:
        parts: Number of each block's first row in the source, and its scan. Ids are compared within
            a block only.
    """
    sums: dict[str, npt.NDArray[np.int64]] = {}
    observations: Counter[str] = Counter()
    faults: dict[tuple[str, str], Fault] = {}
    for start, part in parts:
        sums = {s: sums[s] + part.sums[s] for s in part.sums} if sums else part.sums
        observations.update(part.observations)
        for fault in part.faults:
            known = faults.get((fault.sensor, fault.kind))
            first = known or replace(fault, row=start + fault.row, count=0)
            faults[fault.sensor, fault.kind] = replace(first, count=first.count + fault.count)
    return Scan(sums, dict(observations), tuple(faults.values()))


def _scan_series(
    series: Series, checks: dict[str, Callable[[Array], Places]]
) -> tuple[npt.NDArray[np.int64], dict[str, Places]]:
    """Sum the bands, and return the places of each kind of fault, rising."""
    sums = np.zeros(series.values.shape[1], np.int64)
    found: dict[str, list[Places]] = {kind: [] for kind in (*checks, "repeated")}
    size = _PIECE_BYTES // (series.values.itemsize * series.values.shape[1])
    for start in range(0, len(series.doy), size):
        piece = series.values[start : start + size]
        sums += band_sums(piece)
        for kind, check in checks.items():
            if len(at := check(piece)):
                found[kind].append(start + at)
        before = max(0, start - 1)  # the last one of the piece before is a neighbour too
        if len(at := _like_the_one_before(series.values[before : start + size])):
            found["repeated"].append(before + at)
    joined = {kind: np.concatenate(at) for kind, at in found.items() if at}
    if "repeated" in joined:
        at = joined["repeated"]
        joined["repeated"] = at[series.offsets[np.searchsorted(series.offsets, at)] != at]
    return sums, joined


def band_sums(values: Array) -> npt.NDArray[np.int64]:
    """Add up each band of at most four million observations, exactly.

    Two neighbouring 16-bit numbers are added as one 32-bit word: the sum of the words modulo 2**32
    and the sum of their upper halves give both. This is several times faster than a sum along an
    axis, which has to widen every number first.

    Args:
        values: (obs, band) uint16 or int16, the number of bands even.

    Returns:
        (band,) sums.
    """
    words = _words(values)
    shift = 0
    if values.dtype.kind == "i":
        words, shift = words ^ np.uint32(_BIAS), 1 << 15
    num, width = words.shape
    lane = _LANE_WORDS // width
    whole = num // lane * lane
    lanes = words[:whole].reshape(-1, lane * width)
    upper = (lanes >> np.uint32(16)).sum(axis=0, dtype=np.uint32)
    lower = lanes.sum(axis=0, dtype=np.uint32) - (upper << np.uint32(16))
    halves = np.stack([lower, upper], axis=-1).reshape(lane, width * 2)
    left: npt.NDArray[np.int64] = values[whole:].sum(axis=0, dtype=np.int64)
    return np.asarray(halves.sum(axis=0, dtype=np.int64) - shift * whole + left)


def _words(values: Array) -> npt.NDArray[np.uint32]:
    """View (obs, band) 16-bit numbers as (obs, band / 2) words, the first band the lower half."""
    return np.ascontiguousarray(values).view(np.uint32)


def is_no_measurement(values: Array) -> npt.NDArray[np.bool_]:
    """Whether a digital number of 0 in an optical observation says that nothing was measured.

    Args:
        values: (n, 10) DN.

    Returns:
        (n,): all ten are 0, or one is as bright as land. Over water some bands are rightly 0.
    """
    brightest = values.max(axis=1, initial=0)
    return np.asarray((brightest == 0) | (brightest > _BRIGHT_DN))


def _zero_dn(values: Array) -> Places:
    if values.min() > 0:
        return _NOWHERE
    at = np.flatnonzero((values == 0).any(axis=1))
    return at[is_no_measurement(values[at])]


def _negative_code(codes: Array) -> Places:
    return _NOWHERE if codes.min() >= 0 else np.flatnonzero((codes < 0).any(axis=1))


def _saturated(codes: Array) -> Places:
    if codes.max() < SATURATED:
        return _NOWHERE
    return np.flatnonzero((codes == SATURATED).any(axis=1))


def _empty_radar(codes: Array) -> Places:
    pairs = _words(codes)[:, 0]
    return _NOWHERE if pairs.min() > 0 else np.flatnonzero(pairs == 0)


def _like_the_one_before(values: Array) -> Places:
    """Return the places of observations that equal their predecessor in every band."""
    words = _words(values)
    at = np.flatnonzero(words[1:, 0] == words[:-1, 0]) + 1
    return at[(words[at] == words[at - 1]).all(axis=1)] if len(at) else _NOWHERE


def _not_rising(series: Series) -> Places:
    """Return the places of observations that are not later in the year than their predecessor."""
    back = series.doy[1:] <= series.doy[:-1]
    starts = series.offsets[1:-1]
    back[starts[(starts > 0) & (starts < len(series.doy))] - 1] = False
    return np.flatnonzero(back) + 1


def _row_faults(dpixels: DPixels, min_s2: int, min_s1: int) -> Iterator[Fault]:
    optical, radar, ids = dpixels.s2.counts, dpixels.s1_counts, dpixels.pixel_id
    thin = np.flatnonzero((optical < min_s2) | (radar < min_s1) | (optical + radar == 0))
    if len(thin):
        yield Fault("thin", "", len(thin), int(thin[0]), -1)
    ordered = np.sort(ids)
    if (ordered[1:] == ordered[:-1]).any():
        _, firsts = np.unique(ids, return_index=True)
        again = np.setdiff1d(np.arange(len(ids)), firsts)
        yield Fault("duplicate_ids", "", len(again), int(again[0]), -1)


def _fault(kind: str, sensor: str, series: Series, at: Places) -> Fault:
    row = int(np.searchsorted(series.offsets, at[0], side="right")) - 1
    return Fault(kind, sensor, len(at), row, int(at[0] - series.offsets[row]))


_NOWHERE: Places = np.zeros(0, np.int64)
_OPTICAL: dict[str, Callable[[Array], Places]] = {"zero_dn": _zero_dn}
_RADAR: dict[str, Callable[[Array], Places]] = {
    "negative_code": _negative_code,
    "saturated": _saturated,
    "empty_radar": _empty_radar,
}
