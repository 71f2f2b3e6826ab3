"""The one-pass checks against a plain loop over rows and observations."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dpixel import DPixels, Series, offsets_of
from tasks.validation import dpixel_checks
from tasks.validation.dpixel_checks import KINDS, band_sums, join, scan

Array = np.ndarray[Any, Any]
Found = dict[tuple[str, str], tuple[int, int, int]]
"""Count, first row and first observation by sensor and kind."""


def random_series(rng: np.random.Generator, num: int, values: np.ndarray, days: int) -> Series:
    """Rows of 0 to 6 observations whose numbers are drawn from a few."""
    counts = rng.integers(0, 7, num)
    bands = 10 if values.dtype == np.uint16 else 2
    total = int(counts.sum())
    chosen = rng.choice(values, (total, bands))
    again = rng.random(total) < 0.2
    again[:1] = False
    chosen[again] = chosen[np.flatnonzero(again) - 1]
    doy = rng.integers(1, days, total).astype(np.int16)
    return Series(chosen, doy, offsets_of(counts))


def random_dpixels(seed: int, num: int) -> DPixels:
    """D-pixels with every fault there is, many times."""
    rng = np.random.default_rng(seed)
    optical = np.array([0, 5, 900, 1300], np.uint16)
    codes = np.array([-3, 0, 0, 4000, 32767], np.int16)
    radar = [random_series(rng, num, codes, 9) for _ in range(2)]
    ids = rng.integers(0, max(2, 2 * num), num).astype(np.uint64)
    return DPixels(ids, random_series(rng, num, optical, 9), radar[0], radar[1])


def clean_dpixels(num: int = 40) -> DPixels:
    rng = np.random.default_rng(7)

    def series(bands: int, dtype: type) -> Series:
        values: Array = rng.integers(1, 30_000, (num * 8, bands)).astype(dtype)
        doy = np.tile(np.arange(8, dtype=np.int16) * 40 + 1, num)
        return Series(values, doy, np.arange(num + 1) * 8)

    ids = np.arange(num, dtype=np.uint64)
    return DPixels(ids, series(10, np.uint16), series(2, np.int16), series(2, np.int16))


def faults_of(values: list[int], before: list[int] | None, sensor: str) -> set[str]:
    """Name what is wrong with one observation, number by number."""
    found = {"repeated"} if values == before else set()
    if sensor == "s2" and 0 in values and (sum(values) == 0 or max(values) > 1200):
        found.add("zero_dn")
    if sensor != "s2":
        found |= {"negative_code"} if min(values) < 0 else set()
        found |= {"saturated"} if 32767 in values else set()
        found |= {"empty_radar"} if values == [0, 0] else set()
    return found


def by_loop(dpixels: DPixels, min_s2: int, min_s1: int) -> Found:
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    seen: set[int] = set()
    for row in range(len(dpixels)):
        numbers = []
        for sensor in ("s2", "s1_asc", "s1_desc"):
            series = getattr(dpixels, sensor)
            inside = slice(int(series.offsets[row]), int(series.offsets[row + 1]))
            rows, days = series.values[inside].tolist(), series.doy[inside].tolist()
            numbers.append(len(rows))
            for at, values in enumerate(rows):
                kinds = faults_of(values, rows[at - 1] if at else None, sensor)
                kinds |= {"unordered"} if at and days[at] <= days[at - 1] else set()
                for kind in kinds:
                    found.setdefault((sensor, kind), []).append((row, at))
        if numbers[0] < min_s2 or sum(numbers[1:]) < min_s1 or not sum(numbers):
            found.setdefault(("", "thin"), []).append((row, -1))
        if int(dpixels.pixel_id[row]) in seen:
            found.setdefault(("", "duplicate_ids"), []).append((row, -1))
        seen.add(int(dpixels.pixel_id[row]))
    return {key: (len(places), *places[0]) for key, places in found.items()}


def by_scan(found: dpixel_checks.Scan) -> Found:
    return {(f.sensor, f.kind): (f.count, f.row, f.observation) for f in found.faults}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), num=st.integers(0, 30), piece=st.sampled_from([40, 60, 1 << 20]))
def test_every_fault_is_counted_and_placed_as_by_a_loop(seed: int, num: int, piece: int) -> None:
    dpixels = random_dpixels(seed, num)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpixel_checks, "_PIECE_BYTES", piece)
        assert by_scan(scan(dpixels, min_s2=2, min_s1=3)) == by_loop(dpixels, 2, 3)


def test_the_random_blocks_have_every_kind_of_fault() -> None:
    kinds = Counter(fault.kind for fault in scan(random_dpixels(1, 200), min_s2=2).faults)
    assert set(kinds) == set(KINDS)


def test_a_clean_block_has_none() -> None:
    assert scan(clean_dpixels(), min_s2=8, min_s1=16).faults == ()


def test_one_planted_fault_is_named_with_its_place_and_nothing_else_is() -> None:
    dpixels = clean_dpixels()
    dpixels.s1_desc.values[8 * 17 + 5] = (0, 0)
    (fault,) = scan(dpixels).faults
    assert (fault.kind, fault.count) == ("empty_radar", 1)
    assert str(fault) == "s1_desc row 17 observation 5"


def test_zero_over_water_is_a_measurement_and_over_land_it_is_none() -> None:
    dpixels = clean_dpixels()
    dpixels.s2.values[3] = [80, 120, 90, 0, 0, 40, 10, 5, 0, 0]
    assert scan(dpixels).faults == ()
    dpixels.s2.values[3, 1] = 1201
    assert scan(dpixels).count("zero_dn") == 1


def test_the_first_observation_of_a_row_is_no_repetition_of_the_row_before() -> None:
    dpixels = clean_dpixels()
    dpixels.s2.values[8] = dpixels.s2.values[7]
    dpixels.s2.doy[8:16] = dpixels.s2.doy[:8]
    assert scan(dpixels).faults == ()


@pytest.mark.parametrize("num", [0, 1, 255, 256, 257, 1279, 1281, 70_000])
@pytest.mark.parametrize(("dtype", "bands"), [(np.uint16, 10), (np.int16, 2)])
def test_sums_of_the_whole_range_are_exact(num: int, dtype: type, bands: int) -> None:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(num)
    values: Array = rng.integers(limits.min, limits.max + 1, (num, bands)).astype(dtype)
    values[: num // 2] = limits.max
    assert band_sums(values).tolist() == [sum(column) for column in values.T.tolist()]


def test_joined_blocks_are_as_the_whole() -> None:
    whole = random_dpixels(3, 50)
    whole.pixel_id[:] = np.arange(50)
    starts = [0, 13, 14, 40, 50]
    parts = [(a, scan(whole.slice(a, b), min_s2=2)) for a, b in pairwise(starts)]
    joined, once = join(parts), scan(whole, min_s2=2)
    assert by_scan(joined) == by_scan(once)
    assert joined.observations == once.observations
    assert all((joined.sums[sensor] == once.sums[sensor]).all() for sensor in once.sums)
