"""Tiles from a catalogue: what is planned, kept, refused and recorded."""

import json
import os
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely

from tasks.acquire import Options, Request, acquire_tiles, open_archive
from tasks.errors import DataError, ParamsError
from tasks.stac.area import area_of_file
from tasks.stac.report import Report
from tasks.tiles import find_tiles, read_tile
from tests.catalogues import CRS, GRID, SIZE, catalogue_of, optical, outline, radar, surface
from tests.range_server import serve
from tests.unit.test_scenes import files

DAYS = [date(2022, 3, day) for day in (1, 6, 11)]
POWER = np.full((SIZE, SIZE, 2), 0.1, np.float32)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dates of Sentinel-2, one of which was processed twice, and one of each orbit."""
    out = tmp_path_factory.mktemp("made") / "catalogue"
    classes = np.where(np.arange(SIZE) < 6, 9, 4)[None].repeat(SIZE, axis=0)
    return catalogue_of(
        out,
        optical(out, DAYS[0], surface(1), classes=classes),
        optical(out, DAYS[1], surface(2), baseline="04.00"),
        optical(out, DAYS[1], surface(3), copy="1", baseline="02.14"),
        radar(out, DAYS[0], "ascending", POWER),
        radar(out, DAYS[2], "descending", POWER),
    )


@pytest.fixture
def area(tmp_path: Path) -> Any:
    return area_of_file(outline(tmp_path / "w.json"))


def acquire(
    catalogue: Path, area: Any, out: Path, *, scale: str = "tessera", **more: Any
) -> Report:
    options = Options(**more)
    archive = open_archive(Request("static", str(catalogue), scale=scale), options)
    return acquire_tiles(archive, area, [2022], out, options)


@pytest.fixture
def made(catalogue: Path, area: Any, tmp_path: Path) -> tuple[Path, Report]:
    return tmp_path / "out", acquire(catalogue, area, tmp_path / "out")


def record(out: Path) -> dict[str, Any]:
    (path,) = out.glob("2022/*/source.json")
    return dict(json.loads(path.read_text()))


def test_tile_is_one_of_the_public_layout(made: tuple[Path, Report]) -> None:
    out, report = made
    (ref,) = find_tiles(out)
    tile = read_tile(ref)
    assert ref.key == "2022/grid_4.45_51.05"
    assert tile.doys.tolist() == [60, 65]
    assert np.array_equal(tile.bands[0], surface(1))
    assert np.array_equal(tile.bands[1], surface(2))
    assert tile.radar["sar_ascending"][1].tolist() == [60]
    assert tile.radar["sar_descending"][1].tolist() == [70]
    assert tile.region.all()
    with rasterio.open(ref.folder / "roi.tiff") as raster:
        assert (raster.crs.to_string(), raster.transform) == (CRS, GRID)
        assert raster.compression.value == "LZW"
    (row,) = report.rows
    assert (row.optical, row.ascending, row.descending) == (2, 1, 1)
    assert row.clear == pytest.approx((1 - 6 / SIZE + 1) / 2)


def test_record_says_what_the_tile_was_made_from(made: tuple[Path, Report]) -> None:
    found = record(made[0])
    first, second = found["dates"]["s2"]
    assert (found["source"], found["s1_scale"], found["unread"]) == ("aws", "tessera", [])
    assert [item["id"] for item in second["items"]] == ["S2A_31UFS_20220306_0_L2A"]
    (item,) = first["items"]
    assert item["offset"]["decided_by"] == "baseline"
    assert second["items"][0]["offset"]["dark_level"] < 900
    assert set(item["hrefs"]) >= {"B04", "SCL"}
    assert len(item["item_sha256"]) == len(item["pixels_sha256"]) == 64
    assert found["versions"]["gdal"] == rasterio.__gdal_version__


def test_bytes_do_not_depend_on_threads_or_on_when_it_ran(
    catalogue: Path, area: Any, made: tuple[Path, Report], tmp_path: Path
) -> None:
    acquire(catalogue, area, tmp_path / "more", workers=4)
    assert files(tmp_path / "more") == files(made[0])


def test_nothing_unfinished_is_left(made: tuple[Path, Report]) -> None:
    assert {path.name for path in made[0].iterdir()} <= {"2022", ".ingest.lock"}


def test_finished_tile_is_kept_and_not_written(
    catalogue: Path, area: Any, made: tuple[Path, Report]
) -> None:
    out, before = made
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    again = acquire(catalogue, area, out)
    assert [row.outcome for row in again.rows] == ["kept"]
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert again.rows[0].clear == before.rows[0].clear


@pytest.mark.parametrize("change", ["scale", "area"])
def test_another_request_is_read_anew(
    change: str, catalogue: Path, area: Any, made: tuple[Path, Report]
) -> None:
    if change == "scale":
        report = acquire(catalogue, area, made[0], scale="db10")
        assert np.unique(np.load(next(made[0].rglob("sar_ascending.npy")))).tolist() == [8000]
    else:
        report = acquire(catalogue, shapely.box(*area.bounds).buffer(0.0005), made[0])
    assert [row.outcome for row in report.rows] == ["replaced"]


@pytest.mark.parametrize("damage", ["bands.npy", "roi.tiff", "doys.npy", "radar", "cut"])
def test_tile_that_lost_an_array_is_made_again(
    damage: str, catalogue: Path, area: Any, made: tuple[Path, Report]
) -> None:
    (folder,) = made[0].glob("2022/*")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if damage == "cut":
        os.truncate(folder / "bands.npy", 1000)
    elif damage == "radar":  # an orbit that is absent is legal, unless it was there
        for path in folder.glob("sar_ascending*"):
            path.unlink()
    else:
        (folder / damage).unlink()
    assert [row.outcome for row in acquire(catalogue, area, made[0]).rows] == ["replaced"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_tile_of_another_request_that_stays_is_told(
    catalogue: Path, made: tuple[Path, Report]
) -> None:
    empty = acquire(catalogue, shapely.box(4.41, 51.06, 4.42, 51.07), made[0])
    assert [row.outcome for row in empty.rows] == ["no data"]
    assert any("earlier request was left" in note for note in empty.notes)
    assert len(find_tiles(made[0])) == 1


def test_area_between_the_centres_of_pixels_reads_nothing(
    catalogue: Path, area: Any, tmp_path: Path
) -> None:
    west, south, *_ = area.bounds
    report = acquire(catalogue, shapely.box(west, south, west + 1e-6, south + 1e-6), tmp_path)
    assert [row.outcome for row in report.rows] == ["no data"]
    assert report.num_scenes == 0
    assert any("no pixel" in note for note in report.notes)


def test_secrets_in_the_address_of_a_catalogue_are_not_recorded(
    catalogue: Path, area: Any, tmp_path: Path
) -> None:
    with serve(catalogue.parent) as server:
        place = server.url.replace("//", "//user:HIDDEN@") + "/catalog.json?sig=SECRET"
        archive = open_archive(Request("static", place), Options())
        acquire_tiles(archive, area, [2022], tmp_path, Options())
        assert any(answer.query == "sig=SECRET" for answer in server.answers)
    assert record(tmp_path)["catalogue"] == f"{server.url}/catalog.json"
    for name, content in files(tmp_path).items():
        assert not re.search(b"SECRET|HIDDEN", content), name


def test_folder_of_somebody_else_is_left_alone(catalogue: Path, area: Any, tmp_path: Path) -> None:
    theirs = tmp_path / "out" / "2022" / "grid_4.45_51.05"
    theirs.mkdir(parents=True)
    (theirs / "bands.npy").write_bytes(b"precious")
    with pytest.raises(DataError, match="another --out"):
        acquire(catalogue, area, tmp_path / "out")
    assert (theirs / "bands.npy").read_bytes() == b"precious"


def test_plan_reads_and_writes_nothing(catalogue: Path, area: Any, tmp_path: Path) -> None:
    report = acquire(catalogue, area, tmp_path / "out", is_dry=True)
    assert not (tmp_path / "out").exists()
    (row,) = report.rows
    assert (row.pixels, row.optical, row.outcome) == ([SIZE, SIZE], 2, "planned")
    assert report.num_scenes == 5
    assert report.size_bytes == SIZE**2 * (2 * 21 + 2 * 4)


def test_unread_scene_is_tried_again_and_then_work_is_removed(area: Any, tmp_path: Path) -> None:
    root, out = tmp_path / "catalogue", tmp_path / "out"
    items = [optical(root, day, surface(number)) for number, day in enumerate(DAYS)]
    path = catalogue_of(root, *items)
    red = root / "sentinel-2-l2a" / items[1].id / "red.tif"
    red.rename(red.with_suffix(".away"))
    report = acquire(path, area, out)
    assert [items[1].id in where for where in report.unread] == [True]
    assert record(out)["unread"][0]["id"] == items[1].id
    assert read_tile(find_tiles(out)[0]).doys.tolist() == [60, 70], "hidden work is no tile"
    receipts = {p: p.stat().st_mtime_ns for p in (out / ".unfinished").rglob("2022-*.json")}
    red.with_suffix(".away").rename(red)
    again = acquire(path, area, out)
    assert not again.unread
    assert len(receipts) == 3
    assert read_tile(find_tiles(out)[0]).doys.tolist() == [60, 65, 70]
    assert not (out / ".unfinished").exists()


def test_offset_that_is_judged_otherwise_in_another_cell_is_noted(tmp_path: Path) -> None:
    """The metadata say that it is there; only one of two cells has pixels that say it is not."""
    from rasterio.transform import from_origin

    grid = from_origin(604_900, 5_652_000, 10, 10)  # over the border of two cells
    values = surface(1, 60)
    classes = np.full((60, 60), 5)
    classes[:, :20] = 4
    root = tmp_path / "catalogue"
    item = optical(
        root, DAYS[0], values, classes=classes, baseline="04.00", place=(CRS, grid),
        properties={"earthsearch:boa_offset_applied": False},
    )  # fmt: skip
    window = outline(tmp_path / "w.json", grid=grid, shape=(60, 60))
    report = acquire(catalogue_of(root, item), area_of_file(window), tmp_path / "out")
    assert len(report.rows) == 2
    assert any("unlike in another cell" in note for note in report.notes)


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (Request("nowhere"), "--provider"),
        (Request("static"), "--catalog"),
        (Request("earth-search", collection="sentinel-1-grd"), "amplitude"),
        (Request("planetary-computer", collection="landsat"), "--collection"),
        (Request("planetary-computer", scale="linear"), "--s1-scale"),
        (Request("cdse"), "AWS_ACCESS_KEY_ID"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    request_: Request, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ParamsError, match=match):
        open_archive(request_, Options())
