import numpy as np
import pytest

from models.dpixel import DPixels, Series, offsets_of
from tests.unit.models.arrays import random_dpixels, with_counts


def _rows(series: Series) -> list[tuple[list[list[int]], list[int]]]:
    """Return each row on its own, found by slicing."""
    pairs = zip(series.offsets[:-1], series.offsets[1:], strict=True)
    return [(series.values[a:b].tolist(), series.doy[a:b].tolist()) for a, b in pairs]


def test_take_gives_the_chosen_rows_in_the_chosen_order() -> None:
    block = random_dpixels(30, seed=1)
    rows = np.array([7, 7, 0, 29, 3])
    taken = block.take(rows)
    assert taken.pixel_id.tolist() == rows.tolist()
    for name in ("s2", "s1_asc", "s1_desc"):
        before, after = _rows(getattr(block, name)), _rows(getattr(taken, name))
        assert [before[row] for row in rows] == after


def test_take_of_no_rows_is_an_empty_block() -> None:
    assert len(random_dpixels(3, seed=0).take(np.array([], dtype=np.int64))) == 0


def test_concatenating_the_parts_gives_the_whole() -> None:
    block = random_dpixels(20, seed=2)
    parts = [block.take(np.arange(a, b)) for a, b in ((0, 6), (6, 6), (6, 20))]
    joined = DPixels.concatenate(parts)
    assert block.pixel_id.tolist() == joined.pixel_id.tolist()
    for name in ("s2", "s1_asc", "s1_desc"):
        assert _rows(getattr(block, name)) == _rows(getattr(joined, name))
        assert getattr(block, name).values.dtype == getattr(joined, name).values.dtype


def test_concatenating_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        DPixels.concatenate([])


def test_counts_are_per_row_and_s1_counts_join_both_orbits() -> None:
    block = with_counts(s2=[3, 0], asc=[1, 0], desc=[2, 5])
    assert block.s2.counts.tolist() == [3, 0]
    assert block.s1_counts.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("doy", "offsets", "message"),
    [
        ([1, 2, 3], [0, 2], "rising from 0 to 3"),
        ([1, 2, 3], [0, 3, 2, 3], "rising from 0 to 3"),
        ([1, 2, 3], [1, 3], "rising from 0 to 3"),
        ([1, 2], [0, 2], "one length"),
        ([0, 2, 3], [0, 3], r"days of year in 1\.\.366"),
        ([1, 2, 367], [0, 3], r"days of year in 1\.\.366"),
    ],
)
def test_series_that_cannot_be_are_refused(
    doy: list[int], offsets: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Series(np.zeros((3, 2), np.int16), np.array(doy), np.array(offsets))


def test_fractional_days_are_refused() -> None:
    with pytest.raises(ValueError, match="whole days"):
        Series(np.zeros((1, 2), np.int16), np.array([1.5]), np.array([0, 1]))


def test_blocks_with_wrong_bands_types_or_lengths_are_refused() -> None:
    good = with_counts(s2=[1], asc=[1], desc=[1])
    twelve = Series(np.zeros((1, 12), np.uint16), np.array([5]), np.array([0, 1]))
    with pytest.raises(ValueError, match="s2: expected 10 bands in the order B04 B02"):
        DPixels(good.pixel_id, twelve, good.s1_asc, good.s1_desc)
    scaled = Series(np.zeros((1, 2), np.float32), np.array([5]), np.array([0, 1]))
    with pytest.raises(ValueError, match="s1_desc: expected raw int16"):
        DPixels(good.pixel_id, good.s2, good.s1_asc, scaled)
    with pytest.raises(ValueError, match="s2: expected 2 d-pixels, got 1"):
        DPixels(np.arange(2, dtype=np.uint64), good.s2, good.s1_asc, good.s1_desc)
    with pytest.raises(ValueError, match="pixel_id"):
        DPixels(np.arange(1), good.s2, good.s1_asc, good.s1_desc)


def test_offsets_are_running_sums_from_zero() -> None:
    assert offsets_of(np.array([2, 0, 3])).tolist() == [0, 2, 2, 5]
    assert offsets_of(np.array([], dtype=np.int64)).tolist() == [0]
