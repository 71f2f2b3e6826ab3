"""Point tables: Parquet, one row a d-pixel, read in pieces and answered in the same order.

    pixel_id                                 string or integer, unique
    s2, s2_doy                               observations x 10 bands, flattened; day of year of each
    s1_asc, s1_asc_doy, s1_desc, s1_desc_doy likewise x 2; empty lists where an orbit saw nothing

Other columns (labels, groups, coordinates) are left alone; ``year`` is the calendar year, 0 unknown.
Tables in the folder ``points/`` of an archive belong to it.

This is the only importer of Parquet. It knows nothing of embeddings: what a model answers is put
into columns in ``tasks.embedding.point_answers``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series, offsets_of
from tasks.errors import DataError

BLOCK_ROWS = 4096
"""Rows read together: a few megabytes, whatever the size of the table."""

FOLDER = "points"
"""Folder of an archive that holds its tables."""

_STREAMS = {
    "s2": (len(S2_BANDS), np.uint16),
    "s1_asc": (len(S1_BANDS), np.int16),
    "s1_desc": (len(S1_BANDS), np.int16),
}
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)


@dataclass(frozen=True, slots=True)
class PointTable:
    """A checked table."""

    path: Path
    ids: Any
    """Column ``pixel_id``, as it is."""

    def __len__(self) -> int:
        """Return the number of d-pixels."""
        return len(self.ids)

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], DPixels]]:
        """Yield row numbers and the d-pixels there, at most ``BLOCK_ROWS`` at a time.

        ``pixel_id`` of the d-pixels is the row number; the table's own column is ``ids``.

        Raises:
            DataError: A list is null, its values and days do not fit together, or the file is
                damaged where they are.
        """
        columns = [column for name in _STREAMS for column in (name, f"{name}_doy")]
        start = 0
        try:
            with _open(self.path) as file:
                for batch in file.iter_batches(BLOCK_ROWS, columns=columns):
                    rows = np.arange(start, start + len(batch))
                    streams = [_series(self.path, batch, name, start) for name in _STREAMS]
                    yield rows, DPixels(rows.astype(np.uint64), *streams)
                    start += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise _refusal(self.path, f"readable rows from {start} on", str(error)) from error


def open_points(path: Path) -> PointTable:
    """Open a point table.

    Raises:
        DataError: Not a Parquet file, a column is missing, or a ``pixel_id`` occurs twice.
    """
    try:
        with _open(path) as file:
            wanted = {"pixel_id", *_STREAMS, *(f"{name}_doy" for name in _STREAMS)}
            _require_once(path, file, sorted(wanted))
            if odd := sorted(n for n in wanted - {"pixel_id"} if not _holds_lists(file, n)):
                raise _refusal(path, "lists of numbers", f"other types in {', '.join(odd)}")
            ids = file.read(columns=["pixel_id"]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise _refusal(path, "a readable Parquet file", str(error)) from error
    if not len(ids):
        raise _refusal(path, "at least one d-pixel", "no row")
    if len(ids.unique()) != len(ids) or ids.null_count:
        raise _refusal(path, "a pixel_id of its own in each row", "repeated or null ones")
    return PointTable(path, ids)


def find_tables(archive: Path) -> list[Path]:
    """List the point tables of an archive, sorted by name; empty where it has none."""
    return sorted(path for path in (archive / FOLDER).glob("*.parquet") if path.is_file())


def columns_of(path: Path) -> dict[str, str]:
    """Return the columns of a Parquet file and their types.

    Raises:
        DataError: Not a Parquet file.
    """
    try:
        with _open(path) as file:
            return {field.name: str(field.type) for field in file.schema_arrow}
    except (pa.ArrowException, OSError) as error:
        raise _refusal(path, "a readable Parquet file", str(error)) from error


def read_numbers(path: Path, columns: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Read whole columns of numbers from a Parquet table of any kind.

    Raises:
        DataError: Not a Parquet file, or a column is missing, not of numbers, or has gaps.
    """
    try:
        with _open(path) as file:
            _require_once(path, file, columns)
            found = file.read(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise _refusal(path, "a readable Parquet file", str(error)) from error
    for name in columns:
        kind, gaps = found.column(name).type, found.column(name).null_count
        if gaps or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise _refusal(path, f"a number in every row of {name}", f"{kind}, {gaps} null")
    return {name: found.column(name).to_numpy() for name in columns}


def describe_points(path: Path) -> tuple[int, int]:
    """Return the number of rows, and the year that all rows name; 0 where they name none or several.

    Raises:
        DataError: Not a Parquet file.
    """
    try:
        with _open(path) as file:
            rows = int(file.metadata.num_rows)
            if "year" not in file.schema_arrow.names:
                return rows, 0
            years = file.read(columns=["year"]).column(0).unique().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _refusal(path, "a readable Parquet file", str(error)) from error
    only = years[0] if len(years) == 1 else 0
    return rows, only if isinstance(only, int) else 0


def write_table(
    path: Path, ids: Any, kinds: Mapping[str, str], parts: Iterable[Mapping[str, Any]]
) -> None:
    """Write a table of ``pixel_id`` and numeric columns, part by part.

    Args:
        path: File to write.
        ids: Column ``pixel_id``, as ``PointTable.ids`` has it.
        kinds: Element type of each other column by name, e.g. ``float32``.
        parts: Rows in the order of ``ids``: per column (n,) numbers, or (n, width) for lists.
    """
    sink, start = None, 0
    try:
        for part in parts:
            columns = {name: _column(part[name], kind) for name, kind in kinds.items()}
            rows = len(next(iter(columns.values())))
            table = pa.table({"pixel_id": ids.slice(start, rows), **columns})
            sink = sink or pq.ParquetWriter(path, table.schema)
            sink.write_table(table)
            start += rows
    finally:
        if sink:
            sink.close()


def _open(path: Path) -> Any:
    """Open a Parquet file; where its writer left checksums of the pages, they are compared."""
    return pq.ParquetFile(path, page_checksum_verification=True)


def _require_once(path: Path, file: Any, columns: Sequence[str]) -> None:
    """Refuse a table in which a column is missing, or there twice: nobody knows which is meant."""
    for many, found in ((0, "no"), (2, "two or more of")):
        if odd := [n for n in columns if min(file.schema_arrow.names.count(n), 2) == many]:
            raise _refusal(path, f"columns {', '.join(columns)}", f"{found} {', '.join(odd)}")


def _holds_lists(file: Any, name: str) -> bool:
    kind = file.schema_arrow.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    inner = kind.value_type  # null where every list of the table is empty
    return any(is_kind(inner) for is_kind in _NUMBERS)


def _column(numbers: Any, kind: str) -> Any:
    flat = pa.array(numbers.reshape(-1), pa.type_for_alias(kind))
    if numbers.ndim == 1:
        return flat
    offsets = np.arange(0, numbers.size + 1, numbers.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _series(path: Path, batch: Any, name: str, start: int) -> Series:
    width, dtype = _STREAMS[name]
    values, days = batch.column(name), batch.column(f"{name}_doy")
    if values.null_count or days.null_count:
        raise _refusal(path, f"lists in {name} (empty for none)", "a null")
    counts = np.asarray(days.value_lengths())
    uneven = np.flatnonzero(np.asarray(values.value_lengths()) != counts * width)
    if len(uneven):
        expected = f"{width} values in {name} for each day in {name}_doy"
        raise _refusal(path, expected, f"others in row {start + uneven[0]}")
    codes = _whole(path, values, name, dtype).reshape(-1, width)
    try:
        return Series(codes, _whole(path, days, f"{name}_doy", np.int16), offsets_of(counts))
    except ValueError as error:
        raise _refusal(path, f"a legal {name}", f"{error} from row {start} on") from error


def _whole(path: Path, lists: Any, name: str, dtype: type) -> Any:
    """Return the numbers of all lists, end to end, which the type must hold as they are."""
    flat = lists.flatten()
    numbers = flat.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):  # what the type cannot hold is found by comparison
        cast = numbers.astype(dtype)
    if flat.null_count or not np.array_equal(cast, numbers):
        expected = f"{np.dtype(dtype).name} values in {name}"
        raise _refusal(path, expected, f"others ({flat.type}, {flat.null_count} null)")
    return cast


def _refusal(path: Path, expected: str, found: str) -> DataError:
    return DataError(expected, found=found, where=str(path), mend="Write the table again.")
