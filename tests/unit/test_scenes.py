"""Scenes of one's own: GDAL, odc-stac and pyproj say whether they are what they claim to be."""

import hashlib
import json
import shutil
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
from rasterio.transform import Affine, from_origin

from tasks.errors import DataError
from tasks.stac.scenes import save_catalogue, write_scene

GRID = from_origin(600_000, 5_650_000, 10, 10)
COARSE = from_origin(600_000, 5_650_000, 20, 20)
RED = np.arange(1, 40 * 60 + 1, dtype=np.uint16).reshape(40, 60)
CLASSES = np.full((20, 30), 4, np.uint8)


def scene(out: Path, name: str = "S2A_31UFS_20220203_0_L2A", **changes: Any) -> pystac.Item:
    given: dict[str, Any] = {
        "when": datetime(2022, 2, 3, 10, 56, tzinfo=UTC),
        "crs": "EPSG:32631",
        "transform": GRID,
        "assets": {"red": RED, "scl": (CLASSES, COARSE)},
        "nodata": {"red": 0},
        "properties": {"s2:processing_baseline": "04.00"},
        "scale_offset": {"red": (1e-4, -0.1)},
    }
    return write_scene(out, name, "sentinel-2-l2a", **(given | changes))


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_rasters_are_cloud_optimised_and_hold_the_values(tmp_path: Path) -> None:
    item = scene(tmp_path)
    with rasterio.open(item.assets["red"].href) as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.compression.name == "deflate"
        assert (raster.nodata, raster.crs, raster.transform) == (0, "EPSG:32631", GRID)
        assert np.array_equal(raster.read(1), RED)
    with rasterio.open(item.assets["scl"].href) as raster:
        assert (raster.nodata, raster.transform) == (None, COARSE)


def test_large_rasters_have_blocks_of_256(tmp_path: Path) -> None:
    item = scene(tmp_path, assets={"red": np.ones((300, 520), np.uint16)})
    with rasterio.open(item.assets["red"].href) as raster:
        assert raster.block_shapes == [(256, 256)]
        assert raster.overviews(1) == []


def test_item_describes_its_assets(tmp_path: Path) -> None:
    item = scene(tmp_path)
    red = item.assets["red"]
    assert item.properties["proj:code"] == "EPSG:32631"
    assert red.extra_fields["proj:shape"] == [40, 60]
    assert Affine(*red.extra_fields["proj:transform"][:6]) == GRID
    assert red.extra_fields["raster:bands"] == [
        {"data_type": "uint16", "nodata": 0, "scale": 1e-4, "offset": -0.1}
    ]
    assert item.assets["scl"].extra_fields["raster:bands"] == [{"data_type": "uint8"}]
    digest = hashlib.sha256(Path(red.href).read_bytes()).hexdigest()
    assert red.extra_fields["file:checksum"] == "1220" + digest


def test_box_holds_every_corner(tmp_path: Path) -> None:
    item = scene(tmp_path)
    to_degrees = pyproj.Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    x, y = [600_000, 600_600, 600_600, 600_000], [5_650_000, 5_650_000, 5_649_600, 5_649_600]
    lon, lat = to_degrees.transform(x, y)
    assert item.bbox == pytest.approx([min(lon), min(lat), max(lon), max(lat)], abs=2e-7)
    assert item.geometry is not None
    corners = np.array(item.geometry["coordinates"][0])
    expected = np.stack([lon, lat], axis=1)
    assert np.sort(corners[:4], axis=0) == pytest.approx(np.sort(expected, axis=0), abs=2e-7)


def test_equal_input_gives_equal_bytes_in_any_order_and_place(tmp_path: Path) -> None:
    for folder, names in (("a", ("x", "y")), ("b.part", ("y", "x"))):
        save_catalogue([scene(tmp_path / folder, name) for name in names], tmp_path / folder)
    assert files(tmp_path / "a") == files(tmp_path / "b.part")
    assert "catalog.json" in files(tmp_path / "a")


def test_saved_catalogue_may_be_moved(tmp_path: Path) -> None:
    save_catalogue([scene(tmp_path / "made")], tmp_path / "made")
    shutil.move(tmp_path / "made", tmp_path / "moved")
    catalogue = pystac.Catalog.from_file(str(tmp_path / "moved" / "catalog.json"))
    (item,) = catalogue.get_items(recursive=True)
    href = item.assets["red"].get_absolute_href()
    assert href is not None
    assert Path(href).is_relative_to(tmp_path / "moved")
    with rasterio.open(href) as raster:
        assert np.array_equal(raster.read(1), RED)
    assert str(tmp_path) not in "".join(
        content.decode() for name, content in files(tmp_path / "moved").items() if ".json" in name
    )


def test_collections_cover_their_items(tmp_path: Path) -> None:
    days = [date(2022, 2, 3) + timedelta(days) for days in (0, 9)]
    when = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]
    save_catalogue([scene(tmp_path, f"s{at.day}", when=at) for at in when], tmp_path)
    found = json.loads((tmp_path / "sentinel-2-l2a" / "collection.json").read_text())
    assert found["id"] == "sentinel-2-l2a"
    assert found["extent"]["temporal"]["interval"] == [
        ["2022-02-03T00:00:00Z", "2022-02-12T00:00:00Z"]
    ]


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_names_cannot_leave_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="plain names"):
        scene(tmp_path / "out", name)
    with pytest.raises(DataError, match="plain names"):
        scene(tmp_path / "out", assets={name: RED})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("zone", [None, timezone(timedelta(hours=2))])
def test_times_of_other_zones_are_refused(zone: timezone | None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UTC"):
        scene(tmp_path, when=datetime(2022, 2, 3, 10, 56, tzinfo=zone))
