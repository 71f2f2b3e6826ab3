"""The index of a corpus: its shards, and where each block lies.

index.json     format, kind, rows, the shards with their digests, facts of the writer
blocks.arrow   one row a block: number of the shard, offset, length, rows, SHA-256
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from tasks.errors import DataError
from tasks.files import sha256_of, sync_file, write_json

INDEX = "index.json"
BLOCKS = "blocks.arrow"
FORMAT = "tessera-shards/2"
_COLUMNS = {
    "shard": pa.int32(),
    "offset": pa.int64(),
    "length": pa.int64(),
    "rows": pa.int32(),
    "sha256": pa.binary(32),
}
_BLOCK_SCHEMA = pa.schema(list(_COLUMNS.items()))


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard as the index lists it."""

    name: str
    """File name, relative to the index."""
    rows: int
    """Rows in it."""
    size: int
    """Bytes."""
    sha256: str
    """Digest of the file."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block: where it lies and what it must hash to."""

    offset: int
    """First byte in the shard."""
    length: int
    """Bytes."""
    rows: int
    """Rows in it."""
    sha256: bytes
    """Digest of those bytes."""


@dataclass(frozen=True, slots=True)
class Index:
    """The content of ``index.json`` and ``blocks.arrow``."""

    kind: str
    """``dpixels`` or ``targets``."""
    block_rows: int
    """Rows of every block but the last."""
    shards: tuple[ShardEntry, ...]
    """The shards in their order."""
    blocks: pa.Table
    """All blocks in their order; columns as in ``Block`` plus the number of the shard."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else the writer recorded."""

    @property
    def rows(self) -> int:
        """Rows of the whole corpus."""
        return sum(entry.rows for entry in self.shards)

    @property
    def num_blocks(self) -> int:
        """Blocks of the whole corpus."""
        return int(self.blocks.num_rows)

    def block(self, number: int) -> tuple[ShardEntry, Block]:
        """Return one block and the shard that it lies in."""
        row = {name: self.blocks.column(name)[number].as_py() for name in _BLOCK_SCHEMA.names}
        return self.shards[row.pop("shard")], Block(**row)


def write_index(
    folder: Path,
    kind: str,
    block_rows: int,
    shards: Iterable[tuple[ShardEntry, list[Block]]],
    facts: dict[str, Any],
) -> None:
    """Write ``blocks.arrow`` and then ``index.json`` of finished shards.

    Args:
        folder: Folder of the shards.
        kind: ``dpixels`` or ``targets``.
        block_rows: Rows of every block but the last.
        shards: Entry and blocks of each shard, in their order.
        facts: What else a reader should know, e.g. rejected counts.
    """
    entries, tables = [], []
    for number, (entry, blocks) in enumerate(shards):
        entries.append(entry)
        rows = [{"shard": number, **asdict(block)} for block in blocks]
        tables.append(pa.Table.from_pylist(rows, schema=_BLOCK_SCHEMA))
    aside = folder / f".{BLOCKS}.part"
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, _BLOCK_SCHEMA) as writer:
        writer.write_table(pa.concat_tables(tables).combine_chunks())
    sync_file(aside)
    aside.replace(folder / BLOCKS)
    content = {
        "format": FORMAT,
        "kind": kind,
        "block_rows": block_rows,
        "rows": sum(entry.rows for entry in entries),
        "blocks": {"name": BLOCKS, "sha256": sha256_of(folder / BLOCKS)},
        "shards": [asdict(entry) for entry in entries],
        **facts,
    }
    write_json(folder / INDEX, content)


def parse_index(content: bytes, blocks: bytes, where: str) -> Index:
    """Read an index from the bytes of its two files.

    Raises:
        DataError: Not an index of this format, or the two files do not fit together.
    """
    known = {"format", "kind", "block_rows", "rows", "blocks", "shards"}
    try:
        found = json.loads(content)
        if found.get("format") != FORMAT:
            raise ValueError(f"format {found.get('format')}")
        if sha256(blocks).hexdigest() != found["blocks"]["sha256"]:
            raise ValueError(f"{BLOCKS} with another digest than the index says")
        return Index(
            found["kind"],
            found["block_rows"],
            tuple(_shard_entry(entry) for entry in found["shards"]),
            _read_blocks(blocks),
            {name: value for name, value in found.items() if name not in known},
        )
    except (
        *(ValueError, KeyError, TypeError, AttributeError),
        *(RecursionError, OSError, pa.ArrowException),
    ) as error:
        raise DataError(
            f"an index of format {FORMAT}",
            found=str(error),
            where=where,
            mend="Restore it (dvc checkout) or pack the archive again: dvc repro pack",
        ) from error


def _shard_entry(given: dict[str, Any]) -> ShardEntry:
    entry = ShardEntry(**given)
    for name, value in given.items():
        if type(value) is not (str if name in ("name", "sha256") else int):
            raise ValueError(f"{name} {value!r} of a shard")
    return entry


def _read_blocks(content: bytes) -> pa.Table:
    table = pa.ipc.open_file(content).read_all().combine_chunks()
    if not table.schema.equals(_BLOCK_SCHEMA):
        raise ValueError(f"{BLOCKS} with the columns {', '.join(table.column_names)}")
    table.validate(full=True)
    if any(column.null_count for column in table.columns):
        raise ValueError(f"{BLOCKS} with gaps")
    return table
