"""Where and when labels are: those of an archive, or of a Parquet table.

An archive's labels are all rasters of ``labels/`` but parcels, each by its own georeference; a table's
are its rows, by the columns ``lon``, ``lat`` and ``year``. A label that has no place or no year is
refused, not forgotten: nobody could say whether it leaks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import DataError, ParamsError
from tasks.points import read_numbers
from tasks.tiles import find_labels, find_tiles, read_label_raster
from tasks.validation.places import GEOGRAPHIC, LAST_YEAR, Grid, Keys, Numbers, blocks_of

UNKNOWN_YEAR = 0
"""A year that is not known may be any: it counts as the same as every other."""

_PARCELS = "parcel"  # rasters that group pixels and are no task


@dataclass(frozen=True, slots=True)
class Places:
    """Pixels or points of one source and one year."""

    source: str
    """Tile and label, or table."""
    year: int
    """Calendar year, 0 unknown."""
    rows: Keys
    """Number of each pixel (row-major) or table row, rising."""
    crs: str
    """Reference system of the coordinates."""
    x: Numbers
    """Easting or longitude of each, at the centre of a pixel."""
    y: Numbers
    """Northing or latitude."""


def placed(part: Places, block_m: int) -> Keys:
    """Return the block of each place.

    Raises:
        DataError: A place is not on the Earth.
    """
    blocks = blocks_of(part.crs, part.x, part.y, block_m)
    if len(blocks) and blocks.min() < 0:
        at = int(np.flatnonzero(blocks < 0)[0])
        raise DataError(
            "places on the Earth",
            found=f"{part.x[at]} {part.y[at]} ({part.crs})",
            where=f"row {part.rows[at]} of {part.source}",
            mend="Mend the coordinates.",
        )
    return blocks


def read_labels(path: Path) -> Iterator[Places]:
    """Yield the labels of an archive, or of a Parquet table with ``lon``, ``lat`` and ``year``.

    Raises:
        DataError: There is no label, or one has no place or year.
        ParamsError: Neither is there.
    """
    if not path.exists():
        raise ParamsError(
            "an archive with labels, or a Parquet table with lon, lat and year",
            found="no such path",
            where=str(path),
            mend="Name the labels that are kept for evaluation.",
        )
    found = False
    for part in _archive_labels(path) if path.is_dir() else read_points(path):
        found = True
        yield part
    if not found:
        raise DataError(
            "at least one label",
            found="none",
            where=str(path),
            mend="Without labels nothing is held out; name others, or none at all.",
        )


def _archive_labels(archive: Path) -> Iterator[Places]:
    for ref in find_tiles(archive):
        for name, path in find_labels(archive, ref).items():
            if name == _PARCELS:
                continue
            values, known = read_label_raster(path)
            known = known & (np.isfinite(values) if values.dtype.kind == "f" else values != 0)
            rows = np.flatnonzero(known)
            if len(rows):
                grid = Grid(path)
                x, y = grid.centres(*np.divmod(rows, values.shape[1]))
                yield Places(f"{ref.key} {name}", ref.year, rows, grid.crs, x, y)


def read_points(path: Path) -> Iterator[Places]:
    """Yield the rows of a Parquet table with ``lon``, ``lat`` and ``year``, a year at a time.

    Raises:
        DataError: A column is missing, or a place or year is none.
    """
    columns = read_numbers(path, ("lon", "lat", "year"))
    longitude, latitude = (columns[name].astype(np.float64) for name in ("lon", "lat"))
    _require(path, "lon within -180..180", longitude, np.abs(longitude) <= 180)
    _require(path, "lat within -90..90", latitude, np.abs(latitude) <= 90)
    years = columns["year"].astype(np.float64)
    right = (years >= 0) & (years <= LAST_YEAR) & (np.floor(years) == years)
    _require(path, "whole calendar years (0: unknown)", years, right)
    for year in np.unique(years):
        rows = np.flatnonzero(years == year)
        yield Places(path.name, int(year), rows, GEOGRAPHIC, longitude[rows], latitude[rows])


def _require(path: Path, expected: str, values: Any, holds: npt.NDArray[np.bool_]) -> None:
    if not holds.all():
        at = int(np.flatnonzero(~holds)[0])
        raise DataError(
            expected,
            found=str(values[at]),
            where=f"row {at} of {path}",
            mend="Say where and when each row is, or leave it out.",
        )
