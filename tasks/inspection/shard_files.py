"""Read blocks out of shards as they lie on a disk, one in memory at a time.

It serves looking only. A shard may come from anywhere, so it is known by its columns alone, and a
block is checked in full before numpy sees it: offsets that point outside would read memory that is
not the block's.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from models.dpixel import DPixels
from tasks.errors import DataError, DigestMismatch
from tasks.shards.index import BLOCKS, INDEX, Index, parse_index
from tasks.shards.rows import DPIXEL_SCHEMA, TARGET_DTYPES, decode_dpixels, target_schema

DPIXELS = "d-pixel shard"
TARGETS = "target shard"
KINDS = {"dpixels": DPIXELS, "targets": TARGETS}
"""What the shards of a corpus are, by the kind that its index names."""
_MAGIC = b"ARROW1"
_FORMAT = "tessera-shards/"


def is_shard(path: Path, kind: str) -> bool:
    """Return whether a file is a shard of a kind, by its columns."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            return False
    try:
        return kind_of(open_shard(path).schema) == kind
    except DataError:
        return False


def kind_of(schema: Any) -> str | None:
    """Return which shard has these columns, types and all: others would be misread."""
    if schema.equals(DPIXEL_SCHEMA):
        return DPIXELS
    kind: Any = schema.field("target").type if "target" in schema.names else None
    if kind is None or not pa.types.is_fixed_size_list(kind):
        return None
    known = (target_schema(kind.list_size, dtype) for dtype in TARGET_DTYPES)
    return TARGETS if any(schema.equals(one) for one in known) else None


def is_corpus(path: Path) -> bool:
    """Return whether a folder is indexed as a corpus of shards, or a file is part of the index."""
    folder = folder_of(path)
    if path.is_file() and path.name not in (INDEX, BLOCKS):
        return False
    try:
        content = json.loads((folder / INDEX).read_bytes())
        return str(content["format"]).startswith(_FORMAT)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def folder_of(path: Path) -> Path:
    """Return the folder of a corpus: itself, or that of a file in it."""
    return path if path.is_dir() else path.parent


def read_index(folder: Path) -> Index:
    """Read the index of a folder of shards.

    Raises:
        DataError: It is not of this format, or not whole.
    """
    try:
        blocks = (folder / BLOCKS).read_bytes()
    except OSError as error:
        raise DataError(
            f"{BLOCKS} beside {INDEX}",
            found=str(error),
            where=str(folder),
            mend="Restore it (dvc checkout) or pack the archive again: dvc repro pack",
        ) from error
    return parse_index((folder / INDEX).read_bytes(), blocks, str(folder / INDEX))


def num_rows(path: Path) -> int:
    """Return how many rows a shard or a corpus has."""
    return sum(_block_sizes(path))


def _block_sizes(path: Path) -> list[int]:
    """Return the rows of each block; no observation is read for it."""
    if is_corpus(path):
        found: list[int] = read_index(folder_of(path)).blocks.column("rows").to_pylist()
        return found
    reader = open_shard(path)
    return [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)]


def blocks_with(path: Path, rows: Sequence[int]) -> Iterator[tuple[int, DPixels]]:
    """Yield those blocks of a shard or corpus that hold chosen rows, each with its first row."""
    sizes = _block_sizes(path)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    chosen = np.unique(np.searchsorted(starts, np.asarray(rows), side="right") - 1).tolist()
    if is_corpus(path):
        batches = batches_of(folder_of(path), read_index(folder_of(path)), chosen)
    else:
        reader = open_shard(path)
        batches = (batch_of(path, reader, number) for number in chosen)
    for number, batch in zip(chosen, batches, strict=True):
        yield int(starts[number]), decode_dpixels(batch)


def open_shard(path: Path) -> Any:
    """Open the Arrow file of a shard, mapped.

    Raises:
        DataError: It is none, or cannot be read.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "a readable Arrow shard", found=str(error), where=str(path), mend="dvc checkout"
        ) from error


def batches_of(folder: Path, index: Index, chosen: list[int]) -> Iterator[Any]:
    """Yield chosen blocks of a corpus; a block's place in its shard follows from the index.

    Raises:
        DataError: A shard cannot be read, or is of another kind than the index says.
        DigestMismatch: A shard has fewer blocks than the index says.
    """
    owners = index.blocks.column("shard").to_numpy()
    for number in chosen:
        entry = index.shards[int(owners[number])]
        first = int(np.searchsorted(owners, owners[number]))
        path = folder / Path(entry.name).name
        reader = open_shard(path)
        if number - first >= reader.num_record_batches:
            raise DigestMismatch(
                f"at least {number - first + 1} blocks",
                found=str(reader.num_record_batches),
                where=str(path),
                mend="Restore it (dvc checkout) or make it again.",
            )
        if kind_of(reader.schema) != KINDS.get(index.kind):
            raise DataError(
                f"a shard of {index.kind}",
                found="other columns",
                where=str(path),
                mend="dvc checkout",
            )
        yield batch_of(path, reader, number - first)


def batch_of(path: Path, reader: Any, number: int) -> Any:
    """Return a block, checked in full.

    Raises:
        DataError: It is damaged.
    """
    try:
        batch = reader.get_batch(number)
        batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"a whole block {number}", found=str(error), where=str(path), mend="dvc checkout"
        ) from error
    return batch
