import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bands import NORMALISATIONS
from models.buckets import (
    bucket_of,
    fill_positions,
    ladder,
    merge_s1,
    resample_indices,
)
from tests.unit.models.arrays import random_dpixels

STUDENT = NORMALISATIONS["tessera-v2-student"]
TEACHER = NORMALISATIONS["tessera-v2-teacher"]


@pytest.mark.parametrize(
    ("n", "bucket", "indices"),
    [
        (1, 8, [0, 0, 0, 0, 0, 0, 0, 0]),
        (3, 8, [0, 1, 2, 0, 1, 2, 0, 1]),
        (4, 8, [0, 1, 2, 3, 0, 1, 2, 3]),
        (5, 8, [0, 1, 2, 3, 4, 1, 3, 4]),
        (6, 8, [0, 1, 2, 3, 4, 5, 1, 4]),
        (7, 8, [0, 1, 2, 3, 4, 5, 6, 3]),
        (9, 16, [*range(9), 1, 3, 4, 5, 6, 7, 8]),
        (10, 16, [*range(10), 1, 3, 5, 7, 8, 9]),
        (13, 16, [*range(13), 2, 7, 11]),
        (17, 24, [*range(17), 1, 4, 7, 10, 12, 14, 16]),
        (20, 24, [*range(20), 2, 7, 12, 17]),
    ],
)
def test_filling_agrees_with_the_released_code(n: int, bucket: int, indices: list[int]) -> None:
    assert indices == resample_indices(n, bucket).tolist()


@pytest.mark.parametrize(
    ("n", "total"),
    [(257, 32641), (300, 38145), (400, 50946), (511, 65280), (512, 65281), (600, 76545)],
)
def test_thinning_agrees_with_the_released_code(n: int, total: int) -> None:
    assert total == resample_indices(n, 256).sum()


def test_thinning_spreads_over_the_year() -> None:
    thin = resample_indices(300, 256).tolist()
    assert thin[:8] == [0, 1, 2, 3, 4, 5, 7, 8]
    assert thin[-6:] == [293, 294, 295, 296, 297, 299]
    assert resample_indices(257, 256)[-6:].tolist() == [250, 251, 252, 253, 254, 256]


def test_thinning_truncates_a_float_linspace_as_released() -> None:
    exact = {n: np.arange(256) * (n - 1) // 255 for n in range(257, 3000)}
    places = {n: int((exact[n] != resample_indices(n, 256)).sum()) for n in exact}
    differing = {n: count for n, count in places.items() if count}
    assert len(differing) == 124
    assert list(differing.items())[:6] == [
        (295, 2),
        (310, 2),
        (311, 4),
        (343, 2),
        (358, 7),
        (375, 3),
    ]


@given(n=st.integers(1, 300), bucket=st.integers(1, 300))
def test_filling_drops_nothing_and_keeps_originals_first(n: int, bucket: int) -> None:
    indices = resample_indices(n, bucket).tolist()
    assert len(indices) == bucket
    if n <= bucket:
        assert indices[:n] == list(range(n))
        repeats = np.bincount(indices, minlength=n)
        assert repeats.max() - repeats.min() <= 1  # no observation outweighs another by two
    else:
        assert indices == sorted(indices)
        assert (indices[0], indices[-1]) == (0, n - 1 if bucket > 1 else 0)


def test_filling_from_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="n=0"):
        resample_indices(0, 8)


def test_shared_result_cannot_be_changed_by_a_caller() -> None:
    with pytest.raises(ValueError, match="read-only"):
        resample_indices(3, 8)[0] = 5


def test_buckets_of_the_released_ladder() -> None:
    counts = np.array([0, 1, 8, 9, 16, 17, 100, 249, 256, 257, 400])
    expected = [0, 8, 8, 16, 16, 24, 104, 256, 256, 256, 256]
    assert expected == bucket_of(counts, ladder(8, 256)).tolist()


def test_ladder_of_the_paper() -> None:
    assert ladder(16, 64) == (16, 32, 48, 64)


@pytest.mark.parametrize(("step", "largest"), [(0, 8), (16, 40), (16, 0), (-8, 16)])
def test_impossible_ladders_are_refused(step: int, largest: int) -> None:
    with pytest.raises(ValueError, match="multiple of step"):
        ladder(step, largest)


def test_impossible_buckets_are_refused() -> None:
    with pytest.raises(ValueError, match="counts >= 0"):
        bucket_of(np.array([-1]), (8, 16))
    with pytest.raises(ValueError, match="rising"):
        bucket_of(np.array([1]), (16, 8))


@given(counts=st.lists(st.integers(1, 60), max_size=30), bucket=st.sampled_from([8, 16, 64]))
def test_filling_many_rows_equals_filling_each(counts: list[int], bucket: int) -> None:
    expected = [resample_indices(n, bucket).tolist() for n in counts]
    assert expected == fill_positions(np.array(counts, dtype=np.int64), bucket).tolist()


def test_merged_radar_is_ascending_then_descending_each_by_its_own_statistics() -> None:
    block = random_dpixels(25, seed=5)
    merged = merge_s1(block, STUDENT)
    for row in range(len(block)):
        one = block.take(np.array([row]))
        asc = (one.s1_asc.values - np.array(STUDENT.s1_asc_mean)) / STUDENT.s1_asc_std
        desc = (one.s1_desc.values - np.array(STUDENT.s1_desc_mean)) / STUDENT.s1_desc_std
        own = slice(merged.offsets[row], merged.offsets[row + 1])
        np.testing.assert_allclose(merged.values[own], np.vstack([asc, desc]), atol=1e-5)
        assert merged.doy[own].tolist() == [*one.s1_asc.doy, *one.s1_desc.doy]


def test_pooled_statistics_are_the_same_as_joining_before_scaling() -> None:
    block = random_dpixels(1, seed=6)
    raw = np.concatenate([block.s1_asc.values, block.s1_desc.values]).astype(np.float64)
    expected = (raw - TEACHER.s1_asc_mean) / np.array(TEACHER.s1_asc_std)
    np.testing.assert_allclose(merge_s1(block, TEACHER).values, expected, atol=1e-5)
