from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from models.dpixel import DPixels, Series
from tasks.errors import ParamsError
from tasks.inspect_object import draw_object
from tasks.inspection.drawing import GAP_DAYS, gaps
from tasks.inspection.series import (
    choose_rows,
    decibels,
    greenness,
    reflectance,
    series_of_rows,
    series_of_tile,
)
from tasks.inspection.shard_files import blocks_with
from tasks.shards.rows import DPIXEL_SCHEMA, encode_dpixels
from tasks.shards.writer import ShardWriter
from tests.embedding import tile_arrays, write_arrays


def make_dpixels(counts: list[int]) -> DPixels:
    """Make d-pixels whose observations tell their row: DN 100 x row + observation."""
    rows = np.repeat(np.arange(len(counts)), counts)
    within = np.concatenate([np.arange(count) for count in counts])
    values = np.repeat((100 * rows + within)[:, None], 10, axis=1).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    optical = Series(values, (1 + within).astype(np.int16), offsets)
    empty = Series(
        np.zeros((0, 2), np.int16), np.zeros(0, np.int16), np.zeros(len(counts) + 1, np.int64)
    )
    return DPixels(np.arange(len(counts), dtype=np.uint64), optical, empty, empty)


def test_gaps_are_the_times_without_a_clear_view_ends_of_the_year_included() -> None:
    days = np.array([30, 30 + GAP_DAYS, 60 + GAP_DAYS, 366 - GAP_DAYS])
    assert list(gaps(days)) == [
        (1, 30),
        (30 + GAP_DAYS, 60 + GAP_DAYS),
        (60 + GAP_DAYS, 366 - GAP_DAYS),
        (366 - GAP_DAYS, 366),
    ]
    assert list(gaps(np.arange(1, 367, GAP_DAYS))) == []
    assert list(gaps(np.array([], np.int16))) == [(1, 366)]


def test_decibels_are_conventional_ones_and_0_is_no_data() -> None:
    power = np.array([0.1, 0.01])  # -10 and -20 dB
    codes = np.round((20 * np.log10(power) + 50) * 200).astype(np.int16)
    assert decibels(np.array([codes]), "VV") == pytest.approx([-10.0], abs=0.01)
    assert decibels(np.array([codes]), "VH") == pytest.approx([-20.0], abs=0.01)
    assert np.isnan(decibels(np.array([[5000, 0]], np.int16), "VH")).all()


def test_masked_observations_are_kept_apart_and_zeros_beyond_a_swath_are_none(
    tmp_path: Path,
) -> None:
    arrays = tile_arrays()
    arrays["bands"][3, 2, 4], arrays["masks"][3, 2, 4] = 0, 0
    folder = write_arrays(tmp_path / "2021" / "0_0_6_5", arrays)
    (pixel,) = series_of_tile(folder, [(2, 4)])
    kept = [0, 1, 2, 4, 5, 6, 7]
    assert pixel.days.tolist() == arrays["doys"][kept].tolist()
    assert pixel.clear.tolist() == (arrays["masks"][kept, 2, 4] != 0).tolist()
    red, near = (arrays["bands"][kept, 2, 4, at] / 10_000 for at in (0, 3))
    assert reflectance(pixel, "B04") == pytest.approx(red)
    assert greenness(pixel) == pytest.approx((near - red) / (near + red))
    days, codes = pixel.radar["ascending"]
    seen = arrays["sar_ascending"][:, 2, 4].any(axis=1)
    assert days.tolist() == arrays["sar_ascending_doy"][seen].tolist()
    assert codes.tolist() == arrays["sar_ascending"][seen, 2, 4].tolist()


def test_three_pixels_of_the_region_are_chosen_without_a_wish(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "0_0_60_50", tile_arrays(50, 60))
    titles = [pixel.title for pixel in series_of_tile(folder, [])]
    assert (
        titles == ["row 12, column 14", "row 24, column 29", "row 36, column 44"]
        or len(set(titles)) == len(titles) == 3
    )


def test_rows_are_found_across_blocks_in_the_order_asked() -> None:
    whole = make_dpixels([2, 0, 3, 1])
    blocks = [(0, whole.take(np.arange(3))), (3, whole.take(np.arange(3, 4)))]
    found = series_of_rows(blocks, [3, 0], lambda row, pixel_id: f"{row} is {pixel_id}")
    assert [pixel.title for pixel in found] == ["row 3\n3 is 3", "row 0\n0 is 0"]
    assert [pixel.bands[:, 0].tolist() for pixel in found] == [[300], [0, 1]]


def test_rows_that_are_not_there_are_refused_and_three_are_chosen_without_a_wish() -> None:
    with pytest.raises(ParamsError, match=r"row in 0\.\.3"):
        choose_rows([4], 4)
    assert choose_rows([], 401) == [100, 200, 300]


def test_only_the_blocks_of_the_chosen_rows_are_read(tmp_path: Path) -> None:
    whole = make_dpixels([2, 0, 3, 1, 4, 2, 1])
    with ShardWriter(tmp_path / "shard.arrow", DPIXEL_SCHEMA) as writer:
        for start in range(0, 7, 2):
            rows = np.arange(start, min(7, start + 2))
            writer.add(encode_dpixels(whole.take(rows)))
        writer.finish()
    found = list(blocks_with(tmp_path / "shard.arrow", [6, 2]))
    assert [(start, block.pixel_id.tolist()) for start, block in found] == [(2, [2, 3]), (6, [6])]


def test_a_plot_is_a_picture_whose_bytes_are_the_same_again(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "0_0_6_5", tile_arrays())
    for name in ("a.png", "b.png"):
        draw_object(str(folder), tmp_path / name, pixels=["0,0", "2,3 4,5"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    height, width, _ = matplotlib.image.imread(tmp_path / "a.png").shape
    assert width > height > 500


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"pixels": ["5,0"]}, "row in 0..4"),
        ({"pixels": ["-1,0"]}, "row,column"),
        ({"pixels": ["1,1"] * 7}, "at most 6"),
        ({"rows": [1]}, "--pixels row,column"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    wish: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = write_arrays(tmp_path / "0_0_6_5", tile_arrays())
    with pytest.raises(ParamsError, match=reason):
        draw_object(str(folder), tmp_path / "a.png", **wish)
    assert not (tmp_path / "a.png").exists()


def test_a_choice_without_a_file_to_draw_into_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="--plot"):
        draw_object(str(tmp_path), None, rows=[1])
