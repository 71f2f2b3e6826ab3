"""Many scenes, one image a day: which scene wins a pixel, and what a pixel is made of."""

from datetime import date, time
from pathlib import Path

import numpy as np
import pytest

from tests.catalogues import (
    CODE,
    DAY,
    POWER,
    SIZE,
    catalogue_of,
    ingest,
    optical,
    outline,
    radar,
    read,
    rewrite,
    surface,
    tiles,
)
from tests.unit.test_scenes import files

pytestmark = pytest.mark.slow

LEFT = np.arange(SIZE)[None, :].repeat(SIZE, axis=0) < SIZE // 2


def test_first_valid_scene_wins_and_not_the_first_with_data(tmp_path: Path) -> None:
    a, b = surface(1), surface(2)
    cloud_left = np.where(LEFT, 9, 4)
    found = read(
        tmp_path,
        optical(tmp_path / "catalogue", DAY, a, classes=cloud_left, square="31UFS"),
        optical(tmp_path / "catalogue", DAY, b, square="31UGS"),
    )
    assert np.array_equal(found["bands"][0], np.where(LEFT[..., None], b, a))
    assert found["masks"].all()


def test_first_scene_with_data_fills_what_none_sees_clear(tmp_path: Path) -> None:
    a, b = surface(1), surface(2)
    a[LEFT] = 0
    found = read(
        tmp_path,
        optical(tmp_path / "catalogue", DAY, a, classes=np.where(LEFT, 0, 8), square="31UFS"),
        optical(tmp_path / "catalogue", DAY, b, classes=3, square="31UGS"),
    )
    assert np.array_equal(found["bands"][0], np.where(LEFT[..., None], b, a))
    assert not found["masks"].any()


@pytest.mark.parametrize(
    ("number", "is_valid"), list(enumerate([0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1]))
)
def test_classes_of_the_paper_are_valid(number: int, is_valid: int, tmp_path: Path) -> None:
    found = read(
        tmp_path, optical(tmp_path / "catalogue", DAY, surface(), classes=np.where(LEFT, 4, number))
    )
    assert np.array_equal(found["masks"][0], np.where(LEFT, 1, is_valid))


def test_a_band_without_data_makes_a_pixel_invalid(tmp_path: Path) -> None:
    values = surface()
    values[3, 4, 7] = 0
    mask = read(tmp_path, optical(tmp_path / "catalogue", DAY, values))["masks"][0]
    assert np.argwhere(mask == 0).tolist() == [[3, 4]]


def test_order_of_items_in_the_catalogue_does_not_matter(tmp_path: Path) -> None:
    def write(name: str) -> Path:
        out = tmp_path / name
        squares = ("31UFS", "31UGS", "31UFT")
        items = [
            optical(out, DAY, surface(number), classes=np.where(LEFT, 9, 4), square=square)
            for number, square in enumerate(squares)
        ]
        catalogue_of(out, *items)
        return out

    forward, backward = write("forward"), write("backward")
    for collection in backward.glob("*/collection.json"):
        rewrite(collection, links=lambda links: links[::-1])
    for name, folder in (("f", forward), ("b", backward)):
        window = outline(tmp_path / "w.json")
        ingest(folder / "catalog.json", tmp_path / name, window)
    (f,), (b,) = tiles(tmp_path / "f"), tiles(tmp_path / "b")
    assert files(f.folder).keys() == files(b.folder).keys()
    for name in ("bands", "masks", "doys"):
        assert np.array_equal(f[name], b[name])


def test_directions_of_one_day_stay_apart(tmp_path: Path) -> None:
    out = tmp_path / "catalogue"
    found = read(
        tmp_path,
        radar(out, DAY, "ascending", POWER),
        radar(out, DAY, "descending", POWER * 10),
    )
    assert (found["sar_ascending"] == CODE).all()
    assert (found["sar_descending"] == CODE + 20 * 200).all()
    assert found["sar_ascending_doy"].tolist() == found["sar_descending_doy"].tolist() == [5]


def test_slices_of_one_pass_fill_each_other(tmp_path: Path) -> None:
    out = tmp_path / "catalogue"
    first, second = POWER.copy(), POWER * 10
    first[LEFT] = -32768
    found = read(
        tmp_path,
        radar(out, DAY, "ascending", first, part="a"),
        radar(out, DAY, "ascending", second, part="b"),
    )
    expected = np.where(LEFT[..., None], CODE + 4000, CODE)
    assert np.array_equal(found["sar_ascending"], expected[None].repeat(2, axis=-1))


def test_power_that_is_no_number_is_no_data(tmp_path: Path) -> None:
    power = POWER.copy()
    power[0, 0], power[0, 1], power[0, 2], power[0, 3] = np.nan, 0, -1, np.inf
    codes = read(tmp_path, radar(tmp_path / "catalogue", DAY, "ascending", power))["sar_ascending"]
    assert not codes[0, 0, :4].any()
    assert (codes[0, 1:] == CODE).all()


def test_reprocessed_copy_wins(tmp_path: Path) -> None:
    out = tmp_path / "catalogue"
    found = read(
        tmp_path,
        optical(out, DAY, surface(1), copy="0", baseline="02.14"),
        optical(out, DAY, surface(2), copy="1", baseline="05.00", added=1000),
        optical(out, DAY, surface(3), copy="2", baseline="03.01"),
    )
    assert np.array_equal(found["bands"][0], surface(2))


def test_days_are_those_of_utc(tmp_path: Path) -> None:
    out = tmp_path / "catalogue"
    late, early = date(2022, 1, 5), date(2022, 1, 6)
    found = read(
        tmp_path,
        optical(out, late, surface(1), at=time(23, 59, 59)),
        optical(out, early, surface(2), at=time(0, 0, 1)),
    )
    assert found.days(2022) == [late, early]


def test_year_begins_and_ends_in_utc(tmp_path: Path) -> None:
    out = tmp_path / "catalogue"
    days = [date(2021, 12, 31), date(2022, 1, 1), date(2022, 12, 31), date(2023, 1, 1)]
    times = [time(23, 59, 59), time(0, 0), time(23, 59, 59), time(0, 0)]
    items = [
        optical(out, day, surface(), at=at, baseline="03.01")
        for day, at in zip(days, times, strict=True)
    ]
    assert read(tmp_path, *items)["doys"].tolist() == [1, 365]


def test_optical_alone_is_legal(tmp_path: Path) -> None:
    found = read(tmp_path, optical(tmp_path / "catalogue", DAY, surface()))
    assert not list(found.folder.glob("sar_*"))


def test_radar_alone_is_legal(tmp_path: Path) -> None:
    found = read(tmp_path, radar(tmp_path / "catalogue", DAY, "descending", POWER))
    assert found["bands"].shape == (0, SIZE, SIZE, 10)
    assert (found["masks"].shape, found["doys"].shape) == ((0, SIZE, SIZE), (0,))
    assert [path.name for path in sorted(found.folder.glob("sar_*"))] == [
        "sar_descending.npy",
        "sar_descending_doy.npy",
    ]


def test_a_year_without_scenes_makes_no_tile(tmp_path: Path) -> None:
    item = optical(tmp_path / "catalogue", DAY, surface())
    catalogue = catalogue_of(tmp_path / "catalogue", item)
    window = outline(tmp_path / "w.json")
    done = ingest(catalogue, tmp_path / "out", window, "--years", 2019)
    assert not tiles(tmp_path / "out")
    assert "grid_4.45_51.05" in done.all
