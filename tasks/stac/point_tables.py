"""Tables around points: places and labels in, d-pixels out, in the same order.

The one idea: of the columns that are given, only ``lon``, ``lat``, ``pixel_id`` and ``year`` mean
anything; every other (labels, groups) is carried into the output as it is. The written table is a
point table as `tasks.points` reads it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from models.dpixel import DPixels, Series
from tasks.errors import DataError, ParamsError
from tasks.files import sync_file, sync_folder
from tasks.points import BLOCK_ROWS
from tasks.stac.area import FIRST_YEAR, LAST_YEAR

_OURS = ("s2", "s2_doy", "s1_asc", "s1_asc_doy", "s1_desc", "s1_desc_doy")


@dataclass(frozen=True, slots=True)
class Places:
    """Where d-pixels are wanted."""

    path: Path
    table: Any
    """All columns, as they were given; ``pixel_id`` among them."""
    lon: npt.NDArray[np.float64]
    lat: npt.NDArray[np.float64]
    year: npt.NDArray[np.int64] | None
    """Year of each place, if the table says."""

    def rows_of(self, year: int) -> npt.NDArray[np.int64]:
        """Return the rows that are wanted for a year.

        Raises:
            DataError: A ``pixel_id`` is empty or occurs twice among them.
        """
        everywhere = np.arange(len(self.lon))
        rows = everywhere if self.year is None else everywhere[self.year == year]
        ids = self.table.column("pixel_id").take(pa.array(rows))
        if ids.null_count or len(ids.unique()) != len(ids):
            raise _refusal(self.path, f"a pixel_id of its own in each row of {year}", "others")
        return rows

    def years(self, asked: list[int]) -> list[int]:
        """Return the years to read: those asked for, or else those that the table names.

        Raises:
            ParamsError: Neither says a year.
            DataError: There were no satellites in one, or there are none yet.
        """
        named = [] if self.year is None else sorted({int(year) for year in self.year})
        found = [year for year in named if year in asked or not asked] if named else asked
        if not found:
            raise ParamsError(
                "a year",
                found=f"{', '.join(map(str, named)) or 'no column year'}",
                where=f"--years and {self.path}",
                mend="Give --years, or a column year in the table.",
            )
        if found[0] < FIRST_YEAR or found[-1] > LAST_YEAR:
            raise _refusal(
                self.path, f"years in {FIRST_YEAR}..{LAST_YEAR}", f"{found[0]}..{found[-1]}"
            )
        return found


def read_places(path: Path) -> Places:
    """Read a table of points.

    Args:
        path: Parquet or CSV with ``lon`` and ``lat`` in degrees, and perhaps ``pixel_id``, ``year``.

    Raises:
        DataError: Not readable, a column is missing or is taken, or a place is none on the Earth.
    """
    try:
        table = pa.csv.read_csv(path) if path.suffix.lower() == ".csv" else pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise _refusal(path, "a readable Parquet or CSV file", str(error)) from error
    names = table.column_names
    if missing := [name for name in ("lon", "lat") if name not in names]:
        raise _refusal(path, "columns lon and lat in degrees", f"no {' and no '.join(missing)}")
    if taken := [name for name in _OURS if name in names]:
        raise _refusal(path, f"no column called {', '.join(taken)}", "d-pixels already")
    if not table.num_rows:
        raise _refusal(path, "at least one point", "no row")
    if "pixel_id" not in names:
        table = table.add_column(0, "pixel_id", pa.array(np.arange(table.num_rows)))
    if pa.types.is_floating(table.column("pixel_id").type):  # integers beyond 64 bits become such
        raise _refusal(path, "whole numbers below 2^63 or text in pixel_id", "decimal numbers")
    lon, lat = (_numbers(path, table, name, np.float64) for name in ("lon", "lat"))
    off = np.flatnonzero(~((np.abs(lon) <= 180) & (lat >= -80) & (lat <= 84)))
    if len(off):
        where = f"{lon[off[0]]}, {lat[off[0]]} in row {off[0]}"
        raise _refusal(path, "lon in -180..180 and lat in -80..84, where UTM ends", where)
    year = _numbers(path, table, "year", np.int64) if "year" in names else None
    return Places(path, table, lon, lat, year)


def write_dpixels(path: Path, places: Places, year: int, dpixels: DPixels) -> None:
    """Write the point table of a year, so that it is whole or not there.

    Args:
        path: File to write.
        places: The table that was asked for.
        year: Calendar year.
        dpixels: One for each of the year's rows, in their order.
    """
    given = places.table.take(pa.array(places.rows_of(year)))
    if "year" not in given.column_names:
        given = given.append_column("year", pa.array(np.full(len(dpixels), year, np.int16)))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    schema = _with_lists(given.slice(0, 0), dpixels.take(np.arange(0))).schema
    with pq.ParquetWriter(aside, schema) as sink:
        for start in range(0, len(dpixels), BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, len(dpixels)))
            sink.write_table(_with_lists(given.slice(start, len(rows)), dpixels.take(rows)))
    sync_file(aside)
    aside.replace(path)
    sync_folder(path.parent)


def _with_lists(table: Any, dpixels: DPixels) -> Any:
    streams = {"s2": dpixels.s2, "s1_asc": dpixels.s1_asc, "s1_desc": dpixels.s1_desc}
    for name, series in streams.items():
        table = table.append_column(name, _lists(series, series.values, series.values.shape[1]))
        table = table.append_column(f"{name}_doy", _lists(series, series.doy.astype(np.int16), 1))
    return table


def _lists(series: Series, values: npt.NDArray[Any], width: int) -> Any:
    offsets = pa.array((series.offsets * width).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))


def _numbers(path: Path, table: Any, name: str, dtype: type) -> npt.NDArray[Any]:
    column = table.column(name)
    kinds = (pa.types.is_integer, pa.types.is_floating)
    if column.null_count or not any(is_kind(column.type) for is_kind in kinds):
        raise _refusal(path, f"a number in {name} of each row", f"{column.type} or empty ones")
    numbers = column.to_numpy()
    cast = numbers.astype(dtype)
    if not np.array_equal(cast, numbers, equal_nan=dtype is np.float64):
        raise _refusal(path, f"whole numbers in {name}", "others")
    return np.asarray(cast)


def _refusal(path: Path, expected: str, found: str) -> DataError:
    return DataError(expected, found=found, where=str(path), mend="Mend the table.")
