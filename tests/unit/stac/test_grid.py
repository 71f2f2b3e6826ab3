"""Cells and pixels: pyproj and shapely say where the edges are."""

import math

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.stac.grid import Cell, box_around, cell_at, cells_of, degrees_of, region_of, window_of

LONS, LATS = st.floats(-179.9, 179.9), st.floats(-79.5, 83.5)


@pytest.mark.parametrize(
    ("lon", "lat", "name", "crs"),
    [
        (5.4, 50.9, "grid_5.45_50.95", "EPSG:32631"),
        (5.4999, 50.9999, "grid_5.45_50.95", "EPSG:32631"),
        (5.5, 51.0, "grid_5.55_51.05", "EPSG:32631"),
        (-0.01, -0.01, "grid_-0.05_-0.05", "EPSG:32730"),
        (6.0, 0.0, "grid_6.05_0.05", "EPSG:32632"),
        (179.99, -43.2, "grid_179.95_-43.15", "EPSG:32760"),
    ],
)
def test_a_place_belongs_to_the_cell_named_by_its_centre(
    lon: float, lat: float, name: str, crs: str
) -> None:
    cell = cell_at(lon, lat)
    assert (cell.name, cell.crs) == (name, crs)


@given(LONS, LATS)
def test_zone_is_that_of_the_projection(lon: float, lat: float) -> None:
    cell = cell_at(lon, lat)
    centre = cell.column / 10 + 0.05
    zone = math.floor((centre + 180) / 6) + 1
    assert pyproj.CRS(cell.crs).utm_zone == f"{zone}{'N' if cell.row >= 0 else 'S'}"
    assert cell.bounds[0] <= lon < cell.bounds[2] + 1e-9


@pytest.mark.parametrize(
    ("box", "names"),
    [
        ((0.3, 0.6, 0.4, 0.7), ["grid_0.35_0.65"]),  # 0.3 / 0.1 is 2.999... in binary
        ((0.29, 0.6, 0.4, 0.7), ["grid_0.25_0.65", "grid_0.35_0.65"]),
        ((5.45, 50.95, 5.46, 50.96), ["grid_5.45_50.95"]),
        ((-0.1, -0.1, 0.1, 0.0), ["grid_-0.05_-0.05", "grid_0.05_-0.05"]),
    ],
)
def test_cells_that_are_only_touched_are_left_out(box: tuple[float, ...], names: list[str]) -> None:
    assert [cell.name for cell in cells_of(shapely.box(*box))] == names


def test_cells_of_a_ring_leave_out_its_hole() -> None:
    ring = shapely.box(0, 0, 0.5, 0.5) - shapely.box(0.1, 0.1, 0.4, 0.4)
    assert len(cells_of(ring)) == 16


@settings(max_examples=20)
@given(LONS, LATS, st.floats(0.001, 0.2), st.floats(0.001, 0.2))
def test_window_is_whole_pixels_of_ten_metres_around_what_was_asked_for(
    lon: float, lat: float, width: float, height: float
) -> None:
    area = shapely.box(lon, lat, min(lon + width, 180), min(lat + height, 84))
    cell = cells_of(area)[0]
    window = window_of(cell, area)
    edges = np.array(window.boundingbox.bbox)
    assert (edges % 10 == 0).all()
    part = shapely.segmentize(shapely.box(*cell.bounds) & area, 0.001)
    project = pyproj.Transformer.from_crs("EPSG:4326", cell.crs, always_xy=True).transform
    x, y = project(*shapely.get_coordinates(part).T)
    slack = np.array([x.min(), y.min(), -x.max(), -y.max()]) - edges * [1, 1, -1, -1]
    assert (slack > -0.01).all()
    assert (slack < 10.01).all()


def test_every_pixel_belongs_to_one_cell() -> None:
    area = shapely.Point(5.5, 51.0).buffer(0.02)  # around a corner of four cells
    cells, places, owners = cells_of(area), [], []
    for cell in cells:
        window = window_of(cell, area)
        rows, columns = np.nonzero(region_of(cell, area, window))
        x, y = window.transform.c + 10 * columns + 5, window.transform.f - 10 * rows - 5
        places.append(np.stack([x, y], axis=1))
        owners += [cell] * len(x)
    centres = np.concatenate(places)
    assert len(cells) == 4
    assert len(np.unique(centres, axis=0)) == len(centres)
    to_degrees = pyproj.Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True).transform
    lon, lat = to_degrees(*centres.T)
    assert [cell_at(*place) for place in zip(lon, lat, strict=True)] == owners
    assert len(centres) == pytest.approx(expected_pixels(area), rel=1e-3)


def expected_pixels(area: shapely.Geometry) -> float:
    project = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32631", always_xy=True).transform
    return float(shapely.transform(area, project, interleaved=False).area) / 100


def test_region_is_that_of_every_centre_looked_at() -> None:
    area = shapely.Polygon([(5.41, 50.91), (5.43, 50.93), (5.405, 50.94), (5.415, 50.92)])
    (cell,) = cells_of(area)
    window = window_of(cell, area)
    rows, columns = np.mgrid[0 : window.shape[0], 0 : window.shape[1]] + 0.5
    x, y = window.transform.c + 10 * columns, window.transform.f - 10 * rows
    project = pyproj.Transformer.from_crs(cell.crs, "EPSG:4326", always_xy=True).transform
    expected = shapely.contains_xy(area, *project(x, y))
    region = region_of(cell, area, window)
    assert 0 < expected.mean() < 1
    assert np.array_equal(region, expected)


def test_what_only_touches_a_cell_changes_nothing_of_it() -> None:
    """A field that ends at the border of a cell shares a line with it, or a corner."""
    inside = shapely.box(5.41, 50.91, 5.43, 50.93)
    (cell,) = cells_of(inside)
    touching = shapely.union_all(
        [inside, shapely.box(5.5, 50.94, 5.52, 50.96), shapely.Point(5.48, 50.98)]
    )
    window = window_of(cell, inside)
    assert window_of(cell, touching) == window
    assert np.array_equal(region_of(cell, touching, window), region_of(cell, inside, window))


def test_box_around_one_place_is_one_pixel() -> None:
    window = box_around("EPSG:32631", np.array([600_005.0]), np.array([5_700_005.0]))
    assert window.shape == (1, 1)
    assert window.boundingbox.bbox == (600_000, 5_700_000, 600_010, 5_700_010)


def test_degrees_of_a_window_hold_its_corners() -> None:
    cell = Cell(54, 509)
    window = window_of(cell, shapely.box(*cell.bounds))
    west, south, east, north = degrees_of(window)
    assert (west, south) <= (5.4, 50.9)
    assert (east, north) >= (5.5, 51.0)
