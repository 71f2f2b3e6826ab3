"""A corpus of shards, opened by its index; every block is verified before it is decoded.

The one idea: ``blocks.arrow`` says where a block lies and what it hashes to, so one read is one
block, and no byte is believed that the index did not promise.

It deliberately does not know in which order blocks are wanted, nor what to do about a damaged one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels
from tasks.errors import DataError, LineageError, ShardDamaged
from tasks.files import sha256_of
from tasks.shards.index import BLOCKS, INDEX, Index, parse_index
from tasks.shards.reader import read_dpixels, read_targets
from tasks.shards.rows import TARGET_DTYPES, TargetDtype, Targets
from tasks.streaming.stores import Damaged, Store, open_store

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\.arrow")
_MEND = "Restore it (dvc checkout, or copy the shards again), or pack again: dvc repro pack"

Rows = TypeVar("Rows")


@dataclass(frozen=True, eq=False)
class Corpus:
    """D-pixels or targets in blocks."""

    store: Store
    index: Index
    _table: dict[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return self.index.rows

    @property
    def block_rows(self) -> int:
        """Rows of every block but the last."""
        return self.index.block_rows

    @property
    def num_blocks(self) -> int:
        """Blocks of the whole corpus."""
        return self.index.num_blocks

    @property
    def fingerprint(self) -> str:
        """Digest of the digests of all blocks: equal content has an equal one, wherever it lies."""
        return sha256(b"".join(self._table["sha256"].to_pylist())).hexdigest()

    def rows_before(self, held_out: int) -> int:
        """Return how many rows lie before the last ``held_out`` blocks."""
        if held_out == 0:
            return len(self)
        return max(0, self.num_blocks - held_out) * self.block_rows

    def dpixels(self, number: int) -> DPixels:
        """Return a block of d-pixels; its arrays are views of the store's memory.

        Raises:
            ShardDamaged: Missing, cut short, or other bytes than were written.
            StorageError: The store does not answer.
        """
        return self._decoded(number, read_dpixels, len)

    def targets(self, number: int) -> tuple[npt.NDArray[np.uint64], Targets]:
        """Return pixel ids and targets of a block. Raises as ``dpixels``."""
        return self._decoded(
            number,
            lambda content: read_targets(content, self.width, self.dtype),
            lambda found: len(found[0]),
        )

    @property
    def width(self) -> int:
        """Numbers of a target."""
        return int(self.index.facts["dim"])

    @property
    def dtype(self) -> TargetDtype:
        """Number format of a target."""
        return cast(TargetDtype, self.index.facts["dtype"])

    def blocks_of(self, shard: int) -> range:
        """Return the numbers of a shard's blocks."""
        first, stop = np.searchsorted(self._table["shard"], [shard, shard + 1])
        return range(int(first), int(stop))

    def name_of(self, number: int) -> str:
        """Say where a block lies, for messages."""
        shard = self.index.shards[self._table["shard"][number]]
        return f"{self.store.where}/{shard.name}, block {number}"

    def _bytes(self, number: int) -> Any:
        shard = self.index.shards[self._table["shard"][number]]
        offset, length = (int(self._table[name][number]) for name in ("offset", "length"))
        expected = self._table["sha256"][number].as_py()
        try:
            content = self.store.read(shard.name, offset, length)
        except Damaged as damage:
            raise self._damaged(
                number, f"bytes {offset} to {offset + length}", str(damage)
            ) from None
        found = sha256(content).digest()
        if found != expected:
            raise self._damaged(
                number, f"sha256 {expected.hex()[:12]}", f"sha256 {found.hex()[:12]}"
            )
        return content

    def _decoded(
        self, number: int, decode: Callable[[Any], Rows], count: Callable[[Rows], int]
    ) -> Rows:
        content, rows = self._bytes(number), int(self._table["rows"][number])
        try:
            found = decode(content)
            if count(found) != rows:
                raise ValueError(f"{count(found)} rows")
        except ValueError as error:
            raise self._damaged(
                number, f"a block of {rows} {self.index.kind}", str(error)
            ) from error
        return found

    def _damaged(self, number: int, expected: str, found: str) -> ShardDamaged:
        return ShardDamaged(expected, found=found, where=self.name_of(number), mend=_MEND)


def open_corpus(where: str, kind: str, *, digest: str | None = None) -> Corpus:
    """Open a corpus by the folder or URL of its index.

    Args:
        where: Folder or ``s3://bucket/prefix``.
        kind: ``dpixels`` or ``targets``.
        digest: What ``index.json`` must hash to, where a manifest pins it.

    Raises:
        DataError: No index there, or one that contradicts itself.
        LineageError: The index of another corpus.
        StorageError: The store does not answer.
    """
    store = open_store(where)
    try:
        content, blocks = store.whole(INDEX), store.whole(BLOCKS)
    except Damaged as damage:
        raise DataError(
            f"{INDEX} and {BLOCKS}, which are written last",
            found=str(damage),
            where=store.where,
            mend="Name a folder of finished shards.",
        ) from None
    found = sha256(content).hexdigest()
    if digest is not None and found != digest:
        raise LineageError(
            f"the shards that the manifest pins, {INDEX} with sha256 {digest[:12]}",
            found=f"sha256 {found[:12]}",
            where=store.where,
            mend="Copy the shards there again, or unset TESSERA_SHARDS.",
        )
    index = parse_index(content, blocks, store.where)
    table = _table_of(index)
    _require_consistent(index, table, kind, store.where)
    return Corpus(store, index, table)


def open_output(name: str, folder: Path, elsewhere: str, kind: str) -> Corpus:
    """Open the shards that a stage made, where they are to be read.

    They may lie elsewhere than the stage's output; its index says what they must be.

    Args:
        name: Stage address.
        folder: Its output.
        elsewhere: Folder or URL with a folder of that name, or nothing; see ``Workspace.shards``.
        kind: ``dpixels`` or ``targets``.

    Raises:
        LineageError: The shards there are not those of the output.
        DataError, StorageError: As ``open_corpus``.
    """
    where = f"{elsewhere}/{name}" if elsewhere else str(folder)
    return open_corpus(where, kind, digest=sha256_of(folder / INDEX))


def _table_of(index: Index) -> dict[str, Any]:
    names = ("shard", "offset", "length", "rows")
    columns = {name: index.blocks.column(name).to_numpy() for name in names}
    return columns | {"sha256": index.blocks.column("sha256")}


def _require_consistent(index: Index, table: dict[str, Any], kind: str, where: str) -> None:
    """The index is from outside: nothing in it may point out of its shards or its folder."""
    sizes, shard, block_rows = [e.size for e in index.shards], table["shard"], index.block_rows
    facts = {
        f"kind {kind}": index.kind == kind,
        "plain file names": all(_NAME.fullmatch(entry.name) for entry in index.shards),
        "sizes of files": all(0 < size < 2**62 for size in sizes),
        "at least one block": len(shard) > 0,
        "whole rows a block": type(block_rows) is int and block_rows > 0,
        "blocks of the shards that it lists, in their order": bool(
            np.all((shard >= 0) & (shard < len(sizes)) & (np.diff(shard, prepend=0) >= 0))
        ),
        "the number of coordinates of a target": kind != "targets"
        or (type(width := index.facts.get("dim")) is int and width > 0),
        f"targets in one of {', '.join(TARGET_DTYPES)}": kind != "targets"
        or index.facts.get("dtype") in list(TARGET_DTYPES),
    }
    if all(facts.values()):
        begin, length, rows = (table[name] for name in ("offset", "length", "rows"))
        in_shards = np.bincount(shard, rows, minlength=len(sizes)).astype(np.int64)
        facts |= {
            "blocks inside their shards": bool(
                np.all((begin >= 0) & (length > 0) & (begin <= np.array(sizes)[shard] - length))
            ),
            f"blocks of {block_rows} rows and a last one of no more": bool(
                np.all(rows[:-1] == block_rows) and 0 < rows[-1] <= block_rows
            ),
            "as many rows in a shard as in its blocks": in_shards.tolist()
            == [entry.rows for entry in index.shards],
        }
    if broken := [name for name, holds in facts.items() if not holds]:
        raise DataError(
            f"an index with {broken[0]}",
            found=f"one of {len(shard)} blocks of {block_rows!r} rows of {index.kind!r}",
            where=f"{where}/{INDEX}",
            mend=_MEND,
        )
