import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bands import NORMALISATIONS
from models.buckets import merge_s1, normalised_s2, resample_indices
from models.dpixel import Series, offsets_of
from models.hashing import hash_u64
from models.views import draw_view, drop_modality
from tests.unit.models.arrays import random_dpixels, with_counts

STUDENT = NORMALISATIONS["tessera-v2-student"]


def _numbered(counts: list[int]) -> Series:
    """Return a series whose values are the positions within each row."""
    position = np.concatenate([np.arange(k) for k in [0, *counts]])
    doy = (position % 366 + 1).astype(np.int16)
    return Series(
        position[:, None].astype(np.float32), doy, offsets_of(np.array(counts, dtype=np.int64))
    )


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=20),
    length=st.integers(1, 20),
    seed=st.integers(0, 2**64 - 1),
)
def test_view_is_a_subset_in_time_order(counts: list[int], length: int, seed: int) -> None:
    seeds = hash_u64(seed, np.arange(len(counts)))
    values, doy = draw_view(_numbered(counts), length, seeds)
    for row, count in enumerate(counts):
        drawn = values[row, :, 0].astype(int).tolist()
        if count == 0:
            assert not values[row].any()
            assert not doy[row].any()
        elif count <= length:
            assert drawn == resample_indices(count, length).tolist()
        else:
            assert drawn == sorted(set(drawn))
            assert drawn[-1] < count
        if count:
            assert doy[row].tolist() == [position % 366 + 1 for position in drawn]


def test_row_draws_the_same_view_in_any_batch() -> None:
    series = normalised_s2(random_dpixels(200, seed=1, max_s2=90), STUDENT)
    seeds = hash_u64(9, np.arange(200))
    values, doy = draw_view(series, 16, seeds)
    for rows in (np.array([150]), np.arange(199, -1, -1), np.array([3, 77, 3])):
        again, again_doy = draw_view(series.take(rows), 16, seeds[rows])
        np.testing.assert_array_equal(values[rows], again)
        np.testing.assert_array_equal(doy[rows], again_doy)


def test_every_observation_is_drawn_equally_often() -> None:
    rows, count, length = 20_000, 30, 8
    values, _ = draw_view(_numbered([count] * rows), length, hash_u64(3, np.arange(rows)))
    share = np.bincount(values.astype(int).ravel(), minlength=count) / rows
    expected = length / count
    spread = np.sqrt(expected * (1 - expected) / rows)
    assert np.abs(share - expected).max() < 4.5 * spread


def test_pairs_of_observations_are_drawn_as_often_as_without_replacement() -> None:
    rows, count, length = 20_000, 12, 4
    values, _ = draw_view(_numbered([count] * rows), length, hash_u64(4, np.arange(rows)))
    chosen = np.zeros((rows, count))
    np.put_along_axis(chosen, values[..., 0].astype(int), 1, axis=1)
    together = (chosen.T @ chosen / rows)[np.triu_indices(count, 1)]
    expected = length * (length - 1) / (count * (count - 1))
    assert np.abs(together - expected).max() < 4.5 * np.sqrt(expected / rows)


def test_other_seeds_give_another_view() -> None:
    series = _numbered([60] * 50)
    one, _ = draw_view(series, 16, hash_u64(1, np.arange(50)))
    two, _ = draw_view(series, 16, hash_u64(2, np.arange(50)))
    assert (one != two).any(axis=(1, 2)).all()


def test_absent_sensor_is_zero_tokens_for_both_sensors() -> None:
    block = with_counts(s2=[0, 20], asc=[9, 0], desc=[9, 0])
    seeds = hash_u64(np.arange(2))
    assert not draw_view(normalised_s2(block, STUDENT), 8, seeds)[0][0].any()
    assert not draw_view(merge_s1(block, STUDENT), 8, seeds)[0][1].any()


def test_view_of_no_rows_is_empty() -> None:
    values, doy = draw_view(_numbered([]), 8, np.zeros(0, np.uint64))
    assert values.shape == (0, 8, 1)
    assert doy.shape == (0, 8)


def test_wrong_seeds_and_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 uint64 seeds"):
        draw_view(_numbered([5, 5]), 4, np.zeros(3, np.uint64))
    with pytest.raises(ValueError, match="2 uint64 seeds"):
        draw_view(_numbered([5, 5]), 4, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="view length"):
        draw_view(_numbered([5]), 0, np.zeros(1, np.uint64))


def test_modalities_are_dropped_at_the_asked_rate_and_never_both() -> None:
    drop_s2, drop_s1 = drop_modality(hash_u64(5, np.arange(50_000)), 0.1)
    assert not (drop_s2 & drop_s1).any()
    assert abs(drop_s2.mean() - 0.1) < 0.006
    assert abs(drop_s1.mean() - 0.1) < 0.006


def test_modality_is_kept_where_the_other_is_absent() -> None:
    seeds = hash_u64(5, np.arange(2000))
    nothing = np.zeros(2000, bool)
    drop_s2, drop_s1 = drop_modality(seeds, 0.5, has_s2=~nothing, has_s1=nothing)
    assert not drop_s2.any()
    assert drop_s1.any()


def test_probability_zero_drops_nothing_and_above_a_half_is_refused() -> None:
    seeds = hash_u64(np.arange(1000))
    assert not any(drop.any() for drop in drop_modality(seeds, 0.0))
    with pytest.raises(ValueError, match="expected a drop probability"):
        drop_modality(seeds, 0.6)
