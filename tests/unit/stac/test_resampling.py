"""Pixels on the grid: odc-stac, GDAL, and pyproj with scipy say what they must be."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pyproj
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.transform import Affine, from_origin
from scipy.ndimage import map_coordinates

from tasks.stac.reading import Access, Layer, read_layers
from tasks.stac.resampling import doubled
from tasks.stac.scenes import write_cog, write_scene

ORIGIN = (600_000, 5_652_000)
FINE, COARSE = from_origin(*ORIGIN, 10, 10), from_origin(*ORIGIN, 20, 20)
CRS, NEXT_ZONE = "EPSG:32631", "EPSG:32632"


def window(left: int, top: int, width: int, height: int, crs: str = CRS) -> GeoBox:
    """Return a window by its upper left corner, in pixels from the scene's."""
    x, y = ORIGIN[0] + 10 * left, ORIGIN[1] - 10 * top
    return GeoBox((height, width), Affine(10, 0, x, 0, -10, y), crs)


def numbers(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(200, 4000, (size, size)).astype(np.uint16)


def read(path: Path, box: GeoBox, **more: Any) -> np.ndarray:
    given: dict[str, Any] = {"dtype": "uint16", "nodata": 0} | more
    layer = Layer(str(path), **given)
    return read_layers({"x": layer}, box, Access())["x"]


BOXES = [
    window(10, 20, 31, 17),
    window(3, 5, 60, 60),
    window(-7, -5, 40, 40),
    window(100, 90, 60, 60),
    window(-9, -9, 200, 200),
    window(500, 0, 8, 8),
]


@pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")  # odc-geo
@pytest.mark.parametrize("box", BOXES, ids=["even", "odd", "corner", "far corner", "all", "beside"])
def test_grid_of_the_zone_gives_what_odc_stac_gives(box: GeoBox, tmp_path: Path) -> None:
    coarse = numbers(64)
    coarse[:, 40:50] = 0  # nothing there
    classes = np.random.default_rng(1).integers(0, 12, (64, 64)).astype(np.uint8)
    item = write_scene(
        tmp_path, "a", "c", datetime(2022, 1, 5, tzinfo=UTC), crs=CRS, transform=FINE,
        assets={"fine": numbers(128), "coarse": (coarse, COARSE), "classes": (classes, COARSE)},
        nodata={"fine": 0, "coarse": 0, "classes": 0}, properties={},
    )  # fmt: skip
    layers = {
        "fine": Layer(item.assets["fine"].href, "uint16", 0),
        "coarse": Layer(item.assets["coarse"].href, "uint16", 0),
        "classes": Layer(item.assets["classes"].href, "uint8", 0, is_classes=True),
    }
    found = read_layers(layers, box, Access())
    expected = odc.stac.load(
        [item], bands=list(layers), geobox=box, groupby="id", nodata=0,
        dtype={"classes": "uint8", "*": "uint16"},
        resampling={"classes": "nearest", "*": "bilinear"},
    )  # fmt: skip
    for name, values in found.items():
        assert values.shape == box.shape
        assert np.array_equal(values, expected[name].values[0]), name


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=25)
def test_doubling_is_that_of_gdal(height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(1, 65536, (height, width)).astype(np.uint16)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=height, width=width, count=1, dtype="uint16", nodata=0,
            crs=CRS, transform=COARSE,
        ) as raster:  # fmt: skip
            raster.write(values, 1)
        with memory.open() as raster:
            shape = (2 * height, 2 * width)
            expected = raster.read(1, out_shape=shape, resampling=Resampling.bilinear)
    assert np.array_equal(doubled(values), expected)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fine and a coarse raster near the border of two zones, and one that is off the grid."""
    folder = tmp_path_factory.mktemp("scenes")
    grids = {
        "fine": (numbers(700), from_origin(706_000, 5_660_000, 10, 10)),
        "coarse": (numbers(350), from_origin(706_000, 5_660_000, 20, 20)),
        "off": (numbers(700), from_origin(706_003, 5_660_004, 10, 10)),
    }
    for name, (values, grid) in grids.items():
        write_cog(folder / f"{name}.tif", values, CRS, grid, 0)
    return {name: folder / f"{name}.tif" for name in grids}


def middle(crs: str) -> tuple[int, int]:
    """Return a pixel in the middle of the scenes, by column and row in the numbering of windows."""
    to_map = pyproj.Transformer.from_crs(CRS, crs, always_xy=True).transform
    x, y = to_map(709_500, 5_656_500)
    return round((x - ORIGIN[0]) / 10), round((ORIGIN[1] - y) / 10)


@pytest.mark.parametrize("crs", [CRS, NEXT_ZONE])
@pytest.mark.parametrize("name", ["fine", "coarse", "off"])
@given(corner=st.tuples(st.integers(-90, 60), st.integers(-90, 60)),
       shape=st.tuples(st.integers(40, 120), st.integers(40, 300)))  # fmt: skip
@settings(max_examples=6)
def test_pixel_is_the_same_through_every_window(
    scenes: dict[str, Path], name: str, crs: str, corner: tuple[int, int], shape: tuple[int, int]
) -> None:
    (column, row), (left, top), (height, width) = middle(crs), corner, shape
    whole = read(scenes[name], window(column - 100, row - 100, 400, 300, crs))
    part = read(scenes[name], window(column + left, row + top, width, height, crs))
    shared = whole[100 + top :, 100 + left :][:height, :width]
    assert np.array_equal(part[: shared.shape[0], : shared.shape[1]], shared)
    assert whole.any()


@pytest.mark.parametrize(("name", "metres"), [("fine", 10), ("coarse", 20), ("off", 10)])
def test_next_zone_is_bilinear_at_the_exact_place(
    name: str, metres: int, scenes: dict[str, Path]
) -> None:
    column, row = middle(NEXT_ZONE)
    box = window(column, row, 60, 50, NEXT_ZONE)
    with rasterio.open(scenes[name]) as raster:
        values, grid = raster.read(1).astype(float), raster.transform
    rows, columns = np.mgrid[0:50, 0:60] + 0.5
    x, y = box.transform.c + 10 * columns, box.transform.f - 10 * rows
    x, y = pyproj.Transformer.from_crs(NEXT_ZONE, CRS, always_xy=True).transform(x, y)
    places = [(grid.f - y) / metres - 0.5, (x - grid.c) / metres - 0.5]
    expected = map_coordinates(values, places, order=1)
    # GDAL's approximation may be a thousandth of a pixel off; neighbours differ by thousands.
    assert np.abs(read(scenes[name], box) - expected).max() < 4


def test_file_that_does_not_name_its_no_data_does_not_bleed(tmp_path: Path) -> None:
    values = np.full((20, 20), 500, np.uint16)
    values[:, 10:] = 0
    write_cog(tmp_path / "a.tif", values, CRS, COARSE)
    found = read(tmp_path / "a.tif", window(0, 0, 40, 40))
    assert set(np.unique(found)) == {0, 500}


def test_no_data_of_the_file_becomes_zero(tmp_path: Path) -> None:
    values = numbers(20)
    values[3, 4] = 65535
    write_cog(tmp_path / "a.tif", values, CRS, FINE, 65535)
    values[3, 4] = 0
    assert np.array_equal(read(tmp_path / "a.tif", window(0, 0, 20, 20)), values)
    power = numbers(20).astype(np.float32)
    power[3, 4] = -32768
    write_cog(tmp_path / "b.tif", power, CRS, FINE, -32768)
    power[3, 4] = 0
    found = read(tmp_path / "b.tif", window(0, 0, 20, 20), dtype="float32", nodata=-32768)
    assert np.array_equal(found, power)
