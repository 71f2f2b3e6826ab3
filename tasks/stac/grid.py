"""Cells of a tenth of a degree, and the 10 m pixels that belong to each.

The one idea: every pixel of a UTM zone lies on one grid, multiples of 10 m, whatever is asked for. A
cell's window is the smallest rectangle of whole pixels around the part that was asked for, so
windows of neighbours overlap, hold equal values where they do, and `region_of` gives each pixel to
one cell only: the one that its centre lies in.

It deliberately reads no rasters and knows no time.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize
from rasterio.transform import Affine

from tasks.stac.items import Bounds

PIXEL_M = 10
_PER_DEGREE = 10
_SEGMENT_DEG = 0.002  # 200 m: between two points of an outline, a parallel is straight to 1 mm
_WORLD = "EPSG:4326"


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A square of a tenth of a degree, without its eastern and northern edge."""

    column: int
    """West in tenths of a degree."""
    row: int
    """South in tenths of a degree."""

    @property
    def name(self) -> str:
        """``grid_<lon>_<lat>`` of the centre, e.g. ``grid_5.45_50.95``."""
        return f"grid_{self.column / _PER_DEGREE + 0.05:.2f}_{self.row / _PER_DEGREE + 0.05:.2f}"

    @property
    def bounds(self) -> Bounds:
        """West, south, east, north in degrees."""
        edges = (self.column, self.row, self.column + 1, self.row + 1)
        west, south, east, north = (edge / _PER_DEGREE for edge in edges)
        return west, south, east, north

    @property
    def crs(self) -> str:
        """Authority code of the UTM zone that the centre lies in.

        Decision: zones of six degrees everywhere; the exceptions of Norway and Svalbard are of the
        military grid, not of the projection.
        """
        west, south, *_ = self.bounds
        zone = math.floor((west + 0.05 + 180) / 6) % 60 + 1
        return f"EPSG:{32600 + zone if south >= 0 else 32700 + zone}"


def cells_of(area: Any) -> list[Cell]:
    """List the cells that a shape (WGS84 degrees) has a part of, by row and column."""
    west, south, east, north = shapely.bounds(area)
    shapely.prepare(area)
    candidates = (
        Cell(column, row)
        for row in range(_index(south), _index(north, is_end=True))
        for column in range(_index(west), _index(east, is_end=True))
    )
    return [cell for cell in candidates if not _part(cell, area).is_empty]


def cell_at(lon: float, lat: float) -> Cell:
    """Return the cell that a place belongs to."""
    return Cell(math.floor(lon * _PER_DEGREE), math.floor(lat * _PER_DEGREE))


def window_of(cell: Cell, area: Any) -> GeoBox:
    """Return the pixels around the part of a cell that was asked for.

    Returns:
        A box in the cell's UTM zone whose edges are multiples of 10 m.
    """
    return box_around(cell.crs, *shapely.get_coordinates(_on_map(cell, area)).T)


def box_around(crs: str, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> GeoBox:
    """Return the smallest box of whole pixels, at least one, that holds map coordinates."""
    west, south = (math.floor(edge.min() / PIXEL_M) for edge in (x, y))
    east, north = (
        max(math.ceil(edge.max() / PIXEL_M), least + 1) for edge, least in ((x, west), (y, south))
    )
    transform = Affine(PIXEL_M, 0, west * PIXEL_M, 0, -PIXEL_M, north * PIXEL_M)
    return GeoBox((north - south, east - west), transform, crs)


def region_of(cell: Cell, area: Any, window: GeoBox) -> npt.NDArray[np.bool_]:
    """Tell which pixels of a window have their centre in the cell and in the area.

    Returns:
        bool (H, W). Whether a centre lies in the cell depends on the centre alone, so no pixel of
        a zone belongs to two cells.
    """
    part = _on_map(cell, area)
    region, edge = (
        rasterize([shape], window.shape, transform=window.transform, all_touched=is_edge) == 1
        for shape, is_edge in ((part, False), (shapely.boundary(part), True))
    )
    # A pixel that the outline does not touch lies on one side of it. The others are looked at.
    rows, columns = np.nonzero(edge)
    x, y = (
        window.transform.a * (columns + 0.5) + window.transform.c,
        (window.transform.e * (rows + 0.5) + window.transform.f),
    )
    lon, lat = _projection(cell.crs).transform(x, y, direction="INVERSE")
    in_cell = (np.floor(lon * _PER_DEGREE) == cell.column) & (
        np.floor(lat * _PER_DEGREE) == cell.row
    )
    shapely.prepare(area)
    region[rows, columns] = in_cell & shapely.intersects_xy(area, lon, lat)
    return np.asarray(region)


def to_map(crs: str, lon: npt.NDArray[Any], lat: npt.NDArray[Any]) -> tuple[Any, Any]:
    """Project degrees to map coordinates."""
    x, y = _projection(crs).transform(lon, lat)
    return x, y


def box_of(bounds: Bounds) -> Any:
    """Return the shape of bounds in degrees, in two parts if west above east crosses the antimeridian."""
    west, south, east, north = bounds
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    return shapely.unary_union([shapely.box(w, south, e, north) for w, e in spans])


def degrees_of(window: GeoBox) -> Bounds:
    """Return the smallest west, south, east, north around a window; see ``box_of``."""
    left, bottom, right, top = window.boundingbox.bbox
    projection = _projection(str(window.crs))
    west, south, east, north = projection.transform_bounds(
        left, bottom, right, top, direction="INVERSE"
    )
    return west, south, east, north


def _on_map(cell: Cell, area: Any) -> Any:
    """Return the part of a cell that was asked for, in map coordinates."""
    part = shapely.segmentize(_part(cell, area), _SEGMENT_DEG)
    return shapely.transform(part, _projection(cell.crs).transform, interleaved=False)


def _part(cell: Cell, area: Any) -> Any:
    """Return the polygons that a cell has of an area; empty where they only touch."""
    shared = shapely.get_parts(shapely.intersection(shapely.box(*cell.bounds), area))
    return shapely.unary_union(shared[shapely.area(shared) > 0])  # an edge may be shared as well


def _index(edge: float, *, is_end: bool = False) -> int:
    """Return the cell that an edge lies in, or behind which it ends; decimals as they are meant."""
    tenths = round(edge * _PER_DEGREE, 9)  # 0.3 / 0.1 is below 3
    return math.ceil(tenths) if is_end else math.floor(tenths)


@cache
def _projection(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(_WORLD, crs, always_xy=True)
