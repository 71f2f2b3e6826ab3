"""Where pixels come from: resampling, shared pixels, cells and zones."""

from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.transform import Affine, from_origin
from scipy.ndimage import map_coordinates

from tests.catalogues import (
    BANDS,
    CODE,
    CRS,
    DAY,
    GRID,
    SIZE,
    Read,
    catalogue_of,
    ingest,
    optical,
    outline,
    radar,
    read,
    surface,
    tiles,
)

pytestmark = pytest.mark.slow

COARSE = from_origin(GRID.c - 40, GRID.f + 40, 20, 20)
"""Of 20 m bands on a square that is larger on all sides."""


def coarse_scene(out: Path, values: np.ndarray, *, place: tuple[str, Affine] | None = None) -> Any:
    """Write a scene whose bands all hold the same 20 m values."""
    return optical(
        out, DAY, values[..., None].repeat(len(BANDS), axis=-1), place=place or (CRS, COARSE)
    )


def test_plane_is_interpolated_exactly(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:20, 0:20]
    found = read(
        tmp_path,
        coarse_scene(tmp_path / "catalogue", (200 + 8 * rows + 4 * columns).astype(np.uint16)),
    )
    # Centres of 10 m pixels are a quarter of a 20 m pixel beside those of 20 m pixels.
    fine = (np.arange(SIZE) + 0.5) / 2 + 2 - 0.5
    expected = 200 + 8 * fine[:, None] + 4 * fine[None, :]
    assert (expected == expected.astype(int)).all()
    assert np.array_equal(found["bands"][0, ..., 0], expected)


def test_no_data_does_not_bleed(tmp_path: Path) -> None:
    values = np.full((20, 20), 500, np.uint16)
    values[:, 10:] = 0
    found = read(tmp_path, coarse_scene(tmp_path / "catalogue", values))
    bands = found["bands"][0]
    assert set(np.unique(bands)) == {0, 500}
    assert (bands[:, : SIZE // 2] == 500).all()
    assert not found["masks"][0][bands[..., 0] == 0].any()


def test_radar_no_data_does_not_bleed(tmp_path: Path) -> None:
    power = np.full((20, 20, 2), 0.1, np.float32)
    power[:, 10:] = -32768
    found = read(
        tmp_path, radar(tmp_path / "catalogue", DAY, "ascending", power, place=(CRS, COARSE))
    )
    assert set(np.unique(found["sar_ascending"])) == {0, CODE}


BORDER_LON, BORDER_GRID = 4.5, from_origin(604_900, 5_652_000, 20, 20)


def test_neighbouring_cells_agree_on_shared_pixels(tmp_path: Path) -> None:
    values = surface(4, 40)
    item = optical(tmp_path / "catalogue", DAY, values, place=(CRS, BORDER_GRID))
    catalogue = catalogue_of(tmp_path / "catalogue", item)
    window = outline(tmp_path / "w.json", grid=BORDER_GRID, shape=(30, 40))
    ingest(catalogue, tmp_path / "out", window)
    west, east = tiles(tmp_path / "out")
    assert [west.folder.name, east.folder.name] == ["grid_4.45_51.05", "grid_4.55_51.05"]
    images = [on_map(tile) for tile in (west, east)]
    shared = images[0]["bands"].keys() & images[1]["bands"].keys()
    assert len(shared) >= 10
    for place in shared:
        assert images[0]["bands"][place] == images[1]["bands"][place]
    assert not images[0]["region"] & images[1]["region"], "no pixel belongs to both"
    inside = images[0]["region"] | images[1]["region"]
    assert len(inside) >= 60 * 80 - 2 * (60 + 80), "and only the rim to none"


def on_map(tile: Read) -> dict[str, Any]:
    """Return values and region of a tile by map coordinates."""
    bands = tile["bands"][0]
    with rasterio.open(tile.folder / "roi.tiff") as raster:
        region = raster.read(1)
    found: dict[str, Any] = {"bands": {}, "region": set()}
    for row, column in np.ndindex(*region.shape):
        place = tuple(tile.transform @ (column + 0.5, row + 0.5))
        found["bands"][place] = bands[row, column].tolist()
        if region[row, column]:
            found["region"].add(place)
    return found


def test_window_across_a_zone_border_has_a_tile_in_each_zone(tmp_path: Path) -> None:
    grid, values = from_origin(709_500, 5_660_000, 10, 10), surface(5, 120)
    catalogue = catalogue_of(
        tmp_path / "catalogue",
        optical(tmp_path / "catalogue", DAY, values, place=(CRS, grid)),
    )
    window = outline(tmp_path / "w.json", grid=grid, shape=(120, 120))
    ingest(catalogue, tmp_path / "out", window)
    found = tiles(tmp_path / "out")
    assert [(tile.folder.name, tile.crs) for tile in found] == [
        ("grid_5.95_51.05", "EPSG:32631"),
        ("grid_6.05_51.05", "EPSG:32632"),
    ]
    for tile in found:
        rows, columns = places_in(grid, tile)
        inside = (np.minimum(rows, columns) > 1) & (np.maximum(rows, columns) < 118)
        assert inside.sum() > 4000
        assert tile["masks"][0][inside].all()
        expected = map_coordinates(values[..., 3].astype(float), [rows, columns], order=1)
        difference = np.abs(tile["bands"][0, ..., 3] - expected)[inside]
        # Half for rounding to whole numbers; the rest is GDAL's approximation of the projection,
        # about a ten-thousandth of a pixel on ground that varies by 3,000.
        assert difference.max() < 1.5


def places_in(grid: Affine, tile: Read) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of a tile's pixels in a raster of zone 31, as pyproj has them."""
    rows, columns = np.indices(tile["masks"].shape[1:]) + 0.5
    to_scene = pyproj.Transformer.from_crs(tile.crs, CRS, always_xy=True)
    x, y = to_scene.transform(*(tile.transform @ (columns, rows)))
    return (grid.f - y) / 10 - 0.5, (x - grid.c) / 10 - 0.5
