"""Publishing an archive: what the files of the catalogue hold, read by GDAL alone."""

import shutil
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.transform import from_origin

from tasks.errors import DataError
from tasks.publish_catalogue import main, publish_catalogue
from tasks.stac.optical_scenes import PROFILES, Form
from tasks.stac.radar_scenes import power_of
from tests.unit.test_scenes import files

ROWS, COLUMNS = 12, 20
DOYS = [5, 25, 26, 200]
"""5 and 25 of January, 26 (baseline 04.00 came on 25 January 2022), and one that sees nothing."""
GRID = from_origin(600_000, 5_650_000, 10, 10)


def write_archive(root: Path, *, year: str = "2022", region: str | None = "roi.tiff") -> Path:
    """Write a tile of random numbers; column 0 is outside the swath."""
    random = np.random.default_rng(1)
    folder = root / year / "0_0_20_12" if year else root / "0_0_20_12"
    folder.mkdir(parents=True)
    bands = random.integers(1, 3000, (len(DOYS), ROWS, COLUMNS, 10)).astype(np.uint16)
    clear = random.integers(0, 2, bands.shape[:3]).astype(np.uint8)
    bands[:, :, 0], clear[:, :, 0] = 0, 0
    bands[3], clear[3] = 0, 0
    bands[0, 0, 1], clear[0, 0, 1] = 5000, 1
    codes = random.integers(0, 12_000, (2, ROWS, COLUMNS, 2)).astype(np.int16)
    arrays: dict[str, np.ndarray] = {
        "bands": bands,
        "masks": clear,
        "doys": np.array(DOYS, np.uint16),
    }
    arrays |= {"sar_ascending": codes, "sar_ascending_doy": np.array([5, 17], np.int16)}
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    if region:
        place = folder / region if region == "roi.tiff" else root / region
        place.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            place, "w", driver="GTiff", height=ROWS, width=COLUMNS, count=1, dtype="uint8",
            crs="EPSG:32631", transform=GRID,
        ) as raster:  # fmt: skip
            raster.write(np.ones((ROWS, COLUMNS), np.uint8), 1)
    return root


def published(tmp_path: Path, profile: str = "earth-search", **form: bool) -> list[pystac.Item]:
    root = write_archive(tmp_path / "archive")
    publish_catalogue(root, tmp_path / "out", Form(PROFILES[profile], **form))
    catalogue = pystac.Catalog.from_file(str(tmp_path / "out" / "catalog.json"))
    return sorted(catalogue.get_items(recursive=True), key=lambda item: item.id)


def optical(items: list[pystac.Item]) -> dict[date, pystac.Item]:
    chosen = [item for item in items if item.collection_id == "sentinel-2-l2a"]
    return {datetime.fromisoformat(str(item.datetime)).date(): item for item in chosen}


def read(item: pystac.Item, key: str) -> tuple[Any, Any]:
    with rasterio.open(item.assets[key].get_absolute_href()) as raster:
        return raster.read(1).astype(np.int64), raster.transform


def truth(tmp_path: Path, name: str) -> Any:
    values = np.load(tmp_path / "archive" / "2022" / "0_0_20_12" / f"{name}.npy")
    return values.astype(np.int64)


NEW, OLD = date(2022, 1, 26), date(2022, 1, 5)
KEYS = {"earth-search": "red", "planetary-computer": "B04", "cdse": "B04_10m"}
SWIR = {"earth-search": "swir22", "planetary-computer": "B12", "cdse": "B12_20m"}


@pytest.mark.parametrize("profile", PROFILES)
def test_pixels_have_the_offset_that_the_provider_keeps(profile: str, tmp_path: Path) -> None:
    scenes = optical(published(tmp_path, profile))
    assert sorted(scenes) == [OLD, date(2022, 1, 25), NEW], "a date that sees nothing is no scene"
    bands = truth(tmp_path, "bands")
    added = 0 if profile == "earth-search" else 1000
    for keys, band in ((KEYS, 0), (SWIR, 9)):
        assert np.array_equal(read(scenes[OLD], keys[profile])[0], bands[0, ..., band])
        expected = np.where(bands[2, ..., band] > 0, bands[2, ..., band] + added, 0)
        assert np.array_equal(read(scenes[NEW], keys[profile])[0], expected)


@pytest.mark.parametrize("profile", PROFILES)
def test_items_say_what_the_real_ones_say(profile: str, tmp_path: Path) -> None:
    scenes = optical(published(tmp_path, profile))
    baselines = [scenes[day].properties["s2:processing_baseline"] for day in sorted(scenes)]
    assert baselines == ["03.01", "04.00", "04.00"]
    flags = [scene.properties.get("earthsearch:boa_offset_applied") for scene in scenes.values()]
    assert all((flag is None) == (profile != "earth-search") for flag in flags)
    band = scenes[NEW].assets[KEYS[profile]].extra_fields["raster:bands"][0]
    offset = {"earth-search": 0.0, "planetary-computer": None, "cdse": -0.1}[profile]
    assert band.get("offset") == offset


def test_classes_follow_masks(tmp_path: Path) -> None:
    scene = optical(published(tmp_path))[OLD]
    classes, _ = read(scene, "scl")
    clear = truth(tmp_path, "masks")[0] == 1
    assert set(np.unique(classes[clear])) <= {4, 5}
    assert classes[0, 1] == 5, "5000 in all bands is no vegetation"
    assert set(classes[:, 0]) == {0}
    assert set(classes[:, 1:][~clear[:, 1:]]) == {9}


def test_split_scenes_overlap_and_hold_the_same(tmp_path: Path) -> None:
    items = [item for item in published(tmp_path, is_split=True) if "20220126" in item.id]
    squares = [item.properties["grid:code"] for item in items]
    assert len(set(squares)) == 2
    bands = truth(tmp_path, "bands")[2, ..., 0]
    seen = np.zeros(COLUMNS, int)
    for item in items:
        values, grid = read(item, "red")
        first = round((grid.c - GRID.c) / 10)
        seen[first : first + values.shape[1]] += 1
        assert np.array_equal(values, bands[:, first : first + values.shape[1]])
    assert set(seen) == {1, 2}


def test_native_bands_are_means_and_the_worst_class(tmp_path: Path) -> None:
    scene = optical(published(tmp_path, is_native=True))[OLD]
    swir, grid = read(scene, "swir22")
    bands = truth(tmp_path, "bands")[0]
    assert (grid.a, swir.shape) == (20, (ROWS // 2, COLUMNS // 2))
    assert swir[2, 3] == pytest.approx(bands[4:6, 6:8, 9].mean(), abs=0.5)
    assert not swir[:, 0].any(), "half of it has no data"
    assert np.array_equal(read(scene, "red")[0], bands[..., 0])
    clear = truth(tmp_path, "masks")[0, 2:4, 4:6].all()
    assert (read(scene, "scl")[0][1, 2] in (4, 5)) == clear


def test_every_radar_code_comes_back_from_its_power() -> None:
    codes = np.arange(0, 32_768).astype(np.int16)
    power = power_of(codes, where="here")
    assert power.dtype == np.float32
    assert power[0] == -32768
    for precision in (np.float32, np.float64):
        back = (20 * np.log10(power[1:].astype(precision)) + precision(50)) * precision(200)
        assert np.array_equal(np.clip(back, 0, 32_767).astype(np.int16), codes[1:])


def test_radar_scenes_name_their_orbit(tmp_path: Path) -> None:
    items = [item for item in published(tmp_path) if item.collection_id == "sentinel-1-rtc"]
    assert {item.properties["sat:orbit_state"] for item in items} == {"ascending"}
    values = [read(item, "vv")[0] for item in items]
    assert [(value == -32768).sum() for value in values] == [
        (code == 0).sum() for code in truth(tmp_path, "sar_ascending")[..., 0]
    ]


def test_label_raster_gives_the_place_where_there_is_no_region(tmp_path: Path) -> None:
    labels = "labels/2022/0_0_20_12_crop.tif"
    root = write_archive(tmp_path / "archive", region=labels)
    shutil.move(root / "2022", root / "tiles" / "2022")
    done = publish_catalogue(root, tmp_path / "out", Form(PROFILES["earth-search"]))
    assert (done.num_tiles, done.num_optical, done.num_radar) == (1, 3, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"region": None}, "georeference"), ({"year": ""}, "--year")],
    ids=["no place", "no year"],
)
def test_tile_without_place_or_year_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    root = write_archive(tmp_path / "archive", **change)
    with pytest.raises(DataError, match=words):
        publish_catalogue(root, tmp_path / "out", Form(PROFILES["earth-search"]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("year", [-1, 10_000])
def test_year_of_no_calendar_is_refused(year: int, tmp_path: Path) -> None:
    root = write_archive(tmp_path / "archive", year="")
    with pytest.raises(DataError, match="--year"):
        publish_catalogue(root, tmp_path / "out", Form(PROFILES["earth-search"]), year=year)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("doys", [5, 25, 26, 366], "days of the year 2022"),
        ("doys", [0, 25, 26, 27], "days of the year 2022"),
        ("doys", [5, 25, 26, 65_535], "days of the year 2022"),
        ("doys", [5, 5, 26, 200], "each once"),
        ("sar_ascending", np.full((2, ROWS, COLUMNS, 2), -1), "radar codes"),
    ],
    ids=["day 366", "day 0", "a huge day", "a day twice", "negative code"],
)
def test_what_no_scene_can_hold_is_refused_and_leaves_nothing(
    name: str, values: Any, words: str, tmp_path: Path
) -> None:
    root = write_archive(tmp_path / "archive")
    path = root / "2022" / "0_0_20_12" / f"{name}.npy"
    np.save(path, np.asarray(values).astype(np.load(path).dtype))
    with pytest.raises(DataError, match=words):
        publish_catalogue(root, tmp_path / "out", Form(PROFILES["earth-search"]))
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_command_line_publishes_the_same_bytes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_archive(tmp_path / "archive", year="")
    for name in ("a", "b"):
        main(["--archive", str(root), "--out", str(tmp_path / name), "--year", "2022"])
    assert "3 Sentinel-2 and 2 Sentinel-1 scenes" in capsys.readouterr().out
    assert files(tmp_path / "a") == files(tmp_path / "b")
    with pytest.raises(DataError, match="does not exist yet"):
        main(["--archive", str(root), "--out", str(tmp_path / "a"), "--year", "2022"])
