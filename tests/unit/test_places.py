"""Blocks of ground against plain arithmetic in the zone that a place belongs to."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from tasks.errors import DataError
from tasks.validation.places import (
    GEOGRAPHIC,
    Grid,
    blocks_of,
    moved,
    with_year,
    without_year,
)
from tests.ground import grid_file

BLOCK_M = 1000


def named(longitude: float, latitude: float, block_m: int = BLOCK_M) -> tuple[int, int, int]:
    """Name a block by hand: zone of the longitude, and squares of its northern grid."""
    zone = int((longitude + 180) // 6) + 1
    transformer = Transformer.from_crs("EPSG:4326", f"EPSG:{32600 + zone}", always_xy=True)
    east, north = transformer.transform(longitude, latitude)
    return zone, int(east // block_m), int(north // block_m)


def test_places_share_a_number_exactly_if_they_share_a_block() -> None:
    rng = np.random.default_rng(1)
    longitude = np.concatenate([rng.uniform(-180, 180, 300), 6 + rng.normal(0, 0.02, 300)])
    latitude = np.concatenate([rng.uniform(-80, 80, 300), rng.normal(0, 0.02, 300)])
    keys = blocks_of(GEOGRAPHIC, longitude, latitude, BLOCK_M)
    names = [named(*place) for place in zip(longitude, latitude, strict=True)]
    pairs = set(zip(keys.tolist(), names, strict=True))
    assert len(pairs) == len(set(keys.tolist())) == len(set(names)) < 600


@pytest.mark.parametrize(
    "crs", ["EPSG:32631", "EPSG:32630", "EPSG:32632", "EPSG:3035", "EPSG:4326"]
)
@pytest.mark.parametrize("longitude", [3.0, 5.999, 6.001])
def test_a_place_has_one_block_on_whatever_grid_it_comes(crs: str, longitude: float) -> None:
    place = (np.array([longitude, longitude + 0.0001]), np.array([50.0, 50.0001]))
    x, y = moved(GEOGRAPHIC, *place, crs)
    expected = blocks_of(GEOGRAPHIC, *place, BLOCK_M)
    assert blocks_of(crs, x, y, BLOCK_M).tolist() == expected.tolist()


def test_zones_counted_from_the_south_have_the_same_blocks() -> None:
    longitude, latitude = np.array([20.9, 21.2]), np.array([-33.0, -0.001])
    x, y = moved(GEOGRAPHIC, longitude, latitude, "EPSG:32734")
    assert y.min() > 6_000_000
    expected = blocks_of(GEOGRAPHIC, longitude, latitude, 700)
    assert blocks_of("EPSG:32734", x, y, 700).tolist() == expected.tolist()


def test_squares_pass_the_equator_without_a_seam() -> None:
    north = np.arange(-2995.0, 3000, 10)
    east = np.full(len(north), 500_005.0)
    _, counts = np.unique(blocks_of("EPSG:32631", east, north, BLOCK_M), return_counts=True)
    assert counts.tolist() == [100] * 6


def test_what_is_not_on_the_earth_has_no_block() -> None:
    found = blocks_of(
        GEOGRAPHIC, np.array([np.nan, 3.0, np.inf]), np.array([1.0, 1.0, 2.0]), BLOCK_M
    )
    assert (found >= 0).tolist() == [False, True, False]


def test_years_are_told_apart_and_taken_off_again() -> None:
    blocks = blocks_of(GEOGRAPHIC, np.array([3.0, -179.0]), np.array([50.0, -80.0]), 10)
    keys = np.concatenate([with_year(blocks, year) for year in (0, 2021, 2022)])
    assert len(set(keys.tolist())) == 6
    assert (without_year(keys) == np.tile(blocks, 3)).all()


def test_a_grid_finds_the_pixels_of_its_own_centres(tmp_path: Path) -> None:
    grid = Grid(grid_file(tmp_path / "g.tif", "EPSG:32631", 500_000, 5_500_000))
    rows, columns = np.divmod(np.arange(64), 8)
    x, y = grid.centres(rows, columns)
    assert (x[0], y[0]) == (500_005, 5_499_995)
    found = grid.pixels(x + 4.9, y - 4.9)
    assert (found[0] == rows).all()
    assert (found[1] == columns).all()


@pytest.mark.parametrize("crs", [None, "absent"])
def test_a_raster_that_is_nowhere_is_refused(crs: str | None, tmp_path: Path) -> None:
    path = tmp_path / "g.tif"
    if crs is None:
        with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
            rasterio.open(
                path, "w", driver="GTiff", height=2, width=2, count=1, dtype="uint8"
            ).close()
    with pytest.raises(DataError, match="coordinate reference system"):
        Grid(path)


def test_blocks_in_pieces_are_those_of_all_pixels_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Zone 31 ends 6 degrees east: in this tile some pixels are in the next one.
    (x,), (y,) = moved(GEOGRAPHIC, np.array([6.0]), np.array([50.0]), "EPSG:32631")
    grid = Grid(grid_file(tmp_path / "g.tiff", "EPSG:32631", round(x) - 40, round(y) + 40, 8))
    pixels = np.arange(64, dtype=np.uint32)
    whole = blocks_of(grid.crs, *grid.centres(*np.divmod(np.arange(64), 8)), 20)
    monkeypatch.setattr("tasks.validation.places._PIECE", 7)
    parts = list(grid.blocks(pixels, 8, 20))
    assert len(parts) == 10
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(np.unique(whole)) > 16  # the seam cuts blocks
