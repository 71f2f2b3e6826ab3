from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from models.bands import NORMALISATIONS, Normalisation
from models.buckets import merge_s1, normalised_s2, resample_indices
from models.dpixel import Series, offsets_of
from models.hashing import hash_u64
from models.pools import Pool, Scale, pool_s1, pool_s2, scales
from models.views import draw_positions, draw_view, drop_modality
from tests.unit.models.arrays import random_dpixels, with_counts

STUDENT = NORMALISATIONS["tessera-v2-student"]
TEACHER = NORMALISATIONS["tessera-v2-teacher"]
LUCK = 1e-4
"""A uniform draw is called uneven once in ten thousand seeds; the seeds here are fixed."""

counts_of_rows = st.lists(st.integers(0, 60), min_size=1, max_size=20)


def numbered(counts: list[int]) -> Pool:
    """Return a pool whose values are row and position; no two observations are alike."""
    row = np.repeat(np.arange(len(counts)), counts)
    position = np.concatenate([np.arange(k) for k in [0, *counts]])
    return Pool(
        np.stack([row, position], axis=1).astype(np.int16),
        (position % 366 + 1).astype(np.int16),
        offsets_of(np.array(counts, dtype=np.int64))[:-1, None],
        np.array(counts, dtype=np.int64)[:, None],
    )


RAW = Scale(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32))


def drawn_from(counts: list[int], length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(counts))
    return draw_view(numbered(counts), rows, length, hash_u64(seed, rows), RAW)


@given(counts=counts_of_rows, length=st.integers(1, 20), seed=st.integers(0, 2**64 - 1))
def test_view_is_a_subset_of_its_own_row_in_time_order(
    counts: list[int], length: int, seed: int
) -> None:
    values, doy = drawn_from(counts, length, seed)
    for row, count in enumerate(counts):
        drawn = values[row, :, 1].astype(int).tolist()
        if count == 0:
            assert not values[row].any()
            assert not doy[row].any()
        else:
            assert (values[row, :, 0] == row).all()
            assert doy[row].tolist() == [position % 366 + 1 for position in drawn]
        if 0 < count <= length:
            assert drawn == resample_indices(count, length).tolist()
        elif count:
            assert drawn == sorted(set(drawn))
            assert drawn[-1] < count


@pytest.mark.parametrize("length", [8, 16])
def test_draw_is_what_the_whole_normalised_series_holds_there(length: int) -> None:
    """Scaling what was drawn gives the bits of drawing from what was scaled."""
    block = random_dpixels(300, seed=1, max_s2=60, max_asc=20, max_desc=20)
    blocks, rows = [block.slice(0, 100), block.slice(100, 300)], np.arange(299, -1, -1)
    seeds = hash_u64(8, rows)
    for normalisation in (STUDENT, TEACHER):
        s2, s1 = scales(normalisation)
        cases: list[tuple[Series, Pool, Scale]] = [
            (normalised_s2(block, normalisation), pool_s2(blocks), s2),
            (merge_s1(block, normalisation), pool_s1(blocks), s1),
        ]
        for series, pool, scale in cases:
            values, doy = draw_view(pool, rows, length, seeds, scale)
            some = series.counts[rows] > 0
            positions = draw_positions(series.counts[rows], length, seeds)[some]
            index = series.offsets[rows[some]][:, None] + positions
            assert np.array_equal(values[some], series.values[index])
            assert np.array_equal(doy[some], series.doy[index])
            assert not values[~some].any()
            assert values.dtype == doy.dtype == np.float32
            assert values.flags.c_contiguous


def test_row_draws_the_same_view_in_any_batch_and_pool() -> None:
    block, (scale, _) = random_dpixels(200, seed=1, max_s2=90), scales(STUDENT)
    seeds = hash_u64(9, np.arange(200))
    values, doy = draw_view(pool_s2([block]), np.arange(200), 16, seeds, scale)
    for rows in (np.array([150]), np.arange(199, -1, -1), np.array([3, 77, 3])):
        alone = pool_s2([block.take(rows)])
        for pool, places in ((pool_s2([block]), rows), (alone, np.arange(len(rows)))):
            again, again_doy = draw_view(pool, places, 16, seeds[rows], scale)
            np.testing.assert_array_equal(values[rows], again)
            np.testing.assert_array_equal(doy[rows], again_doy)


@pytest.mark.parametrize(("count", "length"), [(5, 2), (6, 3), (7, 6), (8, 4)])
def test_every_subset_is_equally_likely(count: int, length: int) -> None:
    rows = 40_000
    drawn = draw_positions(np.full(rows, count), length, hash_u64(2, np.arange(rows)))
    subsets, times = np.unique(drawn, axis=0, return_counts=True)
    assert subsets.tolist() == [list(subset) for subset in combinations(range(count), length)]
    assert chisquare(times).pvalue > LUCK


@pytest.mark.parametrize(("count", "length"), [(30, 8), (70, 16), (17, 16), (200, 32)])
def test_every_observation_is_drawn_equally_often(count: int, length: int) -> None:
    rows = 20_000
    drawn = draw_positions(np.full(rows, count), length, hash_u64(3, np.arange(rows)))
    share = np.bincount(drawn.ravel(), minlength=count) / rows
    expected = length / count
    assert np.abs(share - expected).max() < 4.5 * np.sqrt(expected * (1 - expected) / rows)


def test_pairs_of_observations_are_drawn_as_often_as_without_replacement() -> None:
    rows, count, length = 20_000, 12, 4
    drawn = draw_positions(np.full(rows, count), length, hash_u64(4, np.arange(rows)))
    chosen = np.zeros((rows, count))
    np.put_along_axis(chosen, drawn, 1, axis=1)
    together = (chosen.T @ chosen / rows)[np.triu_indices(count, 1)]
    expected = length * (length - 1) / (count * (count - 1))
    assert np.abs(together - expected).max() < 4.5 * np.sqrt(expected / rows)


def test_two_views_and_two_sensors_of_a_row_are_drawn_independently() -> None:
    rows, count, length = 60_000, 6, 2
    subsets = {subset: n for n, subset in enumerate(combinations(range(count), length))}
    seeds = hash_u64(5, np.arange(rows))
    drawn = [
        [subsets[tuple(row)] for row in draw_positions(np.full(rows, count), length, s).tolist()]
        for s in (hash_u64(seeds, 0), hash_u64(seeds, 1), hash_u64(hash_u64(seeds, 0), 2))
    ]
    for one, other in combinations(drawn, 2):
        joint = np.bincount(np.array(one) * len(subsets) + other, minlength=len(subsets) ** 2)
        assert chisquare(joint).pvalue > LUCK


def test_other_seeds_give_another_view() -> None:
    one, _ = drawn_from([60] * 50, 16, 1)
    two, _ = drawn_from([60] * 50, 16, 2)
    assert (one != two).any(axis=(1, 2)).all()


def test_both_orbits_are_drawn_from_and_each_is_scaled_by_its_own_statistics() -> None:
    block = with_counts(s2=[0] * 400, asc=[20] * 400, desc=[10] * 400)
    scale = Scale(
        np.array([[0, 0], [1e6, 1e6]], np.float32), np.ones((2, 2), np.float32)
    )  # descending values become far below zero
    values, _ = draw_view(pool_s1([block]), np.arange(400), 9, hash_u64(6, np.arange(400)), scale)
    descending = values[:, :, 0] < 0
    assert (np.diff(descending.astype(int), axis=1) >= 0).all()
    share = descending.mean()
    assert abs(share - 1 / 3) < 4.5 * np.sqrt(2 / 9 / descending.size)


def test_absent_sensor_is_zero_tokens_for_both_sensors() -> None:
    block, (s2, s1) = with_counts(s2=[0, 20], asc=[9, 0], desc=[9, 0]), scales(STUDENT)
    rows, seeds = np.arange(2), hash_u64(np.arange(2))
    assert not draw_view(pool_s2([block]), rows, 8, seeds, s2)[0][0].any()
    assert draw_view(pool_s2([block]), rows, 8, seeds, s2)[0][1].any()
    assert not draw_view(pool_s1([block]), rows, 8, seeds, s1)[0][1].any()


def test_a_corpus_without_radar_has_zero_tokens() -> None:
    block = with_counts(s2=[9, 9], asc=[0, 0], desc=[0, 0])
    values, doy = draw_view(
        pool_s1([block]), np.arange(2), 8, hash_u64(np.arange(2)), scales(STUDENT)[1]
    )
    assert values.shape == (2, 8, 2)
    assert not values.any()
    assert not doy.any()


def test_pools_of_blocks_joined_are_those_of_the_whole() -> None:
    block = random_dpixels(40, seed=3)
    for pool in (pool_s2, pool_s1):
        whole = pool([block])
        parts = pool([block.slice(0, 1), block.slice(1, 40)])
        for name in ("values", "doy", "first", "counts"):
            assert np.array_equal(getattr(whole, name), getattr(parts, name))
    assert whole.nbytes > 0


def test_no_statistics_of_another_set_are_used() -> None:
    """The scale has the six tuples of a set, each in its place."""
    numbers = {name: tuple(float(n) for n in np.arange(k) + 1) for name, k in _FIELDS.items()}
    s2, s1 = scales(Normalisation(name="made-up", **numbers))  # type: ignore[arg-type] # tuples
    assert s2.mean.shape == s2.std.shape == (1, 10)
    assert s1.mean.tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert s1.std.shape == (2, 2)


_FIELDS = {
    **dict.fromkeys(("s2_mean", "s2_std"), 10),
    **dict.fromkeys(("s1_asc_mean", "s1_asc_std", "s1_desc_mean", "s1_desc_std"), 2),
}


def test_view_of_no_rows_is_empty() -> None:
    values, doy = drawn_from([], 8, 0)
    assert values.shape == (0, 8, 2)
    assert doy.shape == (0, 8)


def test_wrong_seeds_and_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 uint64 seeds"):
        draw_positions(np.array([5, 5]), 4, np.zeros(3, np.uint64))
    with pytest.raises(ValueError, match="2 uint64 seeds"):
        draw_positions(np.array([5, 5]), 4, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="view length"):
        drawn_from([5], 0, 0)


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


def test_the_draws_of_a_seed_are_frozen() -> None:
    """Trained weights depend on them: another algorithm would be another run under the same key."""
    drawn = draw_positions(np.array([40, 40, 9, 3]), 8, hash_u64(1, np.arange(4)))
    assert drawn.tolist() == [
        [0, 8, 12, 20, 28, 29, 31, 37],
        [6, 10, 11, 18, 25, 35, 36, 38],
        [0, 1, 2, 3, 4, 6, 7, 8],
        [0, 1, 2, 0, 1, 2, 0, 1],
    ]
