"""Point tables: Parquet, one row a d-pixel, read in pieces and answered in the same order.

    pixel_id                                 string or integer, unique
    s2, s2_doy                               observations x 10 bands, flattened; day of year of each
    s1_asc, s1_asc_doy, s1_desc, s1_desc_doy likewise x 2; empty lists where an orbit saw nothing

Other columns (labels, groups, coordinates) are left alone. The answer has `pixel_id` and
`embedding`, or `codes` and `scale`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series, offsets_of
from models.quantize import quantize
from tasks.embedding.blocks import BLOCK_DPIXELS, Block, Embedded
from tasks.embedding.codes import check_codes
from tasks.errors import DataError

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

    def blocks(self) -> Iterator[Block]:
        """Yield the d-pixels, a block at a time.

        Raises:
            DataError: A list is null, or its values and days do not fit together.
        """
        columns = [column for name in _STREAMS for column in (name, f"{name}_doy")]
        start = 0
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(BLOCK_DPIXELS, columns=columns):
                rows = np.arange(start, start + len(batch))
                streams = [_series(self.path, batch, name, start) for name in _STREAMS]
                yield rows, DPixels(rows.astype(np.uint64), *streams)
                start += len(batch)


def open_points(path: Path) -> PointTable:
    """Open a point table.

    Raises:
        DataError: Not a Parquet file, a column is missing, or a ``pixel_id`` occurs twice.
    """
    try:
        with pq.ParquetFile(path) as file:
            present = set(file.schema_arrow.names)
            wanted = {"pixel_id", *_STREAMS, *(f"{name}_doy" for name in _STREAMS)}
            if missing := sorted(wanted - present):
                raise _refusal(path, "the columns of a point table", f"no {', '.join(missing)}")
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


def write_points(
    path: Path, table: PointTable, blocks: Iterable[Embedded], *, dim: int, as_codes: bool
) -> None:
    """Write the embeddings of a table, whose ``blocks`` come in order, cut to ``dim``.

    Raises:
        DataError: A block cannot be an embedding; see ``check_codes``.
    """
    numbers = {"codes": pa.list_(pa.int8()), "scale": pa.float32()}
    vectors = {"embedding": pa.list_(pa.float32())}
    kinds = {"pixel_id": table.ids.type} | (numbers if as_codes else vectors)
    with pq.ParquetWriter(path, pa.schema(list(kinds.items()))) as sink:
        for block in blocks:
            ids = table.ids.slice(int(block.rows[0]), len(block.rows))
            codes, scales = quantize(block.embedding)
            check_codes(codes, scales, block, lambda row: f"row {row} of {table.path}")
            if as_codes:
                columns = [ids, _lists(codes[:, :dim]), pa.array(scales)]
            else:
                columns = [ids, _lists(block.embedding[:, :dim])]
            sink.write_table(pa.Table.from_arrays(columns, schema=sink.schema))


def _holds_lists(file: Any, name: str) -> bool:
    kind = file.schema_arrow.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    inner = kind.value_type  # null where every list of the table is empty
    return any(is_kind(inner) for is_kind in _NUMBERS)


def _lists(vectors: Any) -> Any:
    offsets = np.arange(0, vectors.size + 1, vectors.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)))


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
