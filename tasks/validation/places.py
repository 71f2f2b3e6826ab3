"""Where pixels lie: blocks of ground on one grid, the same for every tile, table and year.

The one idea: whether two data sets share ground must not depend on how they were cut. So a place is
brought to the UTM zone that its longitude belongs to, whatever grid its tile came on, and the zone is
divided into equal squares that begin at its origin. Northings go on below zero in the south, so the
squares pass the equator without a seam; at the edges of a zone they are cut.

Norway and Svalbard have wider zones in common use. Here they have not: what matters is one rule.
"""

import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from tasks.errors import DataError
from tasks.georeference import read_georeference

GEOGRAPHIC = "EPSG:4326"
LEAST_BLOCK_M = 10
"""Smallest side of a block: a pixel."""

_NUM_ZONES, _ZONE_DEGREES = 60, 6
_MAX_NORTHING_M = 10_000_000
_BITS_EAST, _BITS_NORTH, _BITS_YEAR = 20, 22, 14
_PIECE = 1 << 20  # pixels
LAST_YEAR = (1 << _BITS_YEAR) - 1
"""Largest year that fits beside a block."""

Numbers = npt.NDArray[np.float64]
Keys = npt.NDArray[np.int64]


class Grid:
    """The pixel grid of a raster.

    Args:
        path: A GeoTIFF with a coordinate reference system.

    Raises:
        DataError: It has none, or cannot be read: where its pixels lie is not known.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise _unplaced(path, "no such file")
        found = _read(path)
        self.crs: str = found["crs"] or ""
        self.a, self.b, self.c, self.d, self.e, self.f = found["transform"]
        try:
            CRS.from_user_input(self.crs)
        except ProjError as error:
            raise _unplaced(path, "none that is known" if self.crs else "none") from error
        if not self.a * self.e - self.b * self.d:
            raise _unplaced(path, "pixels without extent")

    def centres(self, rows: Keys, columns: Keys) -> tuple[Numbers, Numbers]:
        """Return map coordinates of pixel centres."""
        x, y = columns + 0.5, rows + 0.5
        return self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f

    def blocks(self, pixels: npt.NDArray[Any], width: int, block_m: int) -> Iterator[Keys]:
        """Yield the block of each pixel, some pixels at a time: coordinates take ten times their room.

        Args:
            pixels: (n,) numbers, row-major.
            width: Pixels of a row.
            block_m: Side of a block in metres.
        """
        for start in range(0, len(pixels), _PIECE):
            rows, columns = np.divmod(pixels[start : start + _PIECE].astype(np.int64), width)
            yield blocks_of(self.crs, *self.centres(rows, columns), block_m)

    def pixels(self, x: Numbers, y: Numbers) -> tuple[Keys, Keys]:
        """Return the row and column of the pixels that hold map coordinates; outside ones as well."""
        x, y, size = x - self.c, y - self.f, self.a * self.e - self.b * self.d
        columns, rows = (self.e * x - self.b * y) / size, (self.a * y - self.d * x) / size
        return np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)


def _read(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no georeference is our own message
            return read_georeference(path)
    except OSError as error:
        raise _unplaced(path, f"unreadable ({error})") from error


def moved(crs: str, x: Numbers, y: Numbers, to: str) -> tuple[Numbers, Numbers]:
    """Bring coordinates (east or longitude first) to another reference system."""
    if crs == to or not len(x):
        return x, y
    east, north = _transformer(crs, to).transform(x, y)
    return np.asarray(east), np.asarray(north)


def blocks_of(crs: str, x: Numbers, y: Numbers, block_m: int) -> Keys:
    """Return the block of each place as one number.

    Args:
        crs: Reference system of the coordinates.
        x: (n,) eastings or longitudes.
        y: (n,) northings or latitudes.
        block_m: Side of a block in metres, at least ``LEAST_BLOCK_M``.

    Returns:
        (n,) numbers, equal for places in one block and different for all others; -1 where a place
        is not on the Earth.
    """
    if not len(x):
        return np.zeros(0, np.int64)
    zone = _only_zone(crs, x, y)
    if zone:
        south = _utm(crs)[1]
        return _numbered(np.full(len(x), zone), x, y - _MAX_NORTHING_M * south, block_m)
    longitude, latitude = moved(crs, x, y, GEOGRAPHIC)
    zones = _zones(longitude)
    keys = np.full(len(x), -1, np.int64)
    for number in np.unique(zones[np.isfinite(longitude) & np.isfinite(latitude)]):
        here = np.flatnonzero(zones == number)
        east, north = moved(GEOGRAPHIC, longitude[here], latitude[here], f"EPSG:{32600 + number}")
        keys[here] = _numbered(zones[here], east, north, block_m)
    return keys


def with_year(blocks: Keys, year: npt.NDArray[Any] | int) -> Keys:
    """Return block numbers that differ from year to year too; 0 is an unknown year."""
    return np.asarray((blocks << _BITS_YEAR) | np.asarray(year, np.int64))


def without_year(keys: Keys) -> Keys:
    """Return the blocks of ``with_year``."""
    return np.asarray(keys >> _BITS_YEAR)


def _numbered(zones: Keys, east: Numbers, north: Numbers, block_m: int) -> Keys:
    on_earth = (np.abs(north) < _MAX_NORTHING_M) & (np.abs(east) < _MAX_NORTHING_M)
    half = 1 << (_BITS_NORTH - 1)
    columns = np.floor(np.where(on_earth, east, 0) / block_m).astype(np.int64)
    rows = np.floor(np.where(on_earth, north, 0) / block_m).astype(np.int64) + half
    keys = (((zones << _BITS_EAST) | (columns & ((1 << _BITS_EAST) - 1))) << _BITS_NORTH) | rows
    return np.where(on_earth, keys, -1)


def _zones(longitude: Numbers) -> Keys:
    turned = (np.where(np.isfinite(longitude), longitude, 0.0) + 180) % 360
    return np.floor(turned / _ZONE_DEGREES).astype(np.int64) + 1


def _only_zone(crs: str, x: Numbers, y: Numbers) -> int:
    """Return the zone of UTM coordinates that all lie in their own zone, else 0.

    Meridians bend one way as seen on the map of a zone, so a rectangle of which the corners are in
    the zone is in it as a whole.
    """
    zone, _ = _utm(crs)
    if not zone or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return 0
    corners = np.meshgrid([x.min(), x.max()], [y.min(), y.max()])
    longitude, _ = moved(crs, corners[0].ravel(), corners[1].ravel(), GEOGRAPHIC)
    return zone if np.isfinite(longitude).all() and (_zones(longitude) == zone).all() else 0


def _utm(crs: str) -> tuple[int, bool]:
    """Return zone and whether it is counted from the south; (0, False) for anything but WGS 84 UTM."""
    code = int(crs.removeprefix("EPSG:")) if crs.removeprefix("EPSG:").isdecimal() else 0
    for base in (32600, 32700):
        if base < code <= base + _NUM_ZONES:
            return code - base, base == 32700
    return 0, False


@lru_cache(maxsize=256)
def _transformer(crs: str, to: str) -> Transformer:
    return Transformer.from_crs(crs, to, always_xy=True)


def _unplaced(path: Path, found: str) -> DataError:
    return DataError(
        "a GeoTIFF with a coordinate reference system, which says where pixels lie",
        found=found,
        where=str(path),
        mend="Write its georeference; shared ground cannot be found without.",
    )
