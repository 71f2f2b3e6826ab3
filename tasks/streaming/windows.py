"""The rows of one window of a process's lanes in memory, while the next one is read.

The one idea: lanes change their windows all at the same time, so what a process holds is one pool of
observations for all its lanes, and a batch is one gather from it. A thread fills the next pool
meanwhile. So memory is bounded by about four windows whatever the corpus: the one in use, the one
before while a batch has rows of both, the next one, and the blocks that it is joined from.

It deliberately keeps no other blocks: in an epoch a whole block is wanted once.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels
from models.hashing import hash_u64
from models.order import Order, Window
from models.pools import Pool, pool_s1, pool_s2
from tasks.errors import LineageError, ShardDamaged
from tasks.shards.rows import Targets
from tasks.streaming.corpus import Corpus
from tasks.streaming.damage import Damage

_INSTEAD, _TRIES = 0x494E5354, 30  # with half of all blocks damaged, one try in 10**9 fails

Rows = npt.NDArray[np.int64]
Read = tuple[DPixels, Targets | None]


@dataclass(frozen=True, slots=True)
class Source:
    """What is streamed: d-pixels, and targets of the same rows where they are wanted."""

    dpixels: Corpus
    targets: Corpus | None = None

    def __post_init__(self) -> None:
        if self.targets is None:
            return
        a, b = self.dpixels, self.targets
        if (len(a), a.block_rows) != (len(b), b.block_rows):
            raise _other_rows(f"{len(b)} rows in blocks of {b.block_rows}", b.store.where)

    @property
    def fingerprint(self) -> str:
        """Digest of all that is streamed, by content."""
        corpora = (self.dpixels, self.targets)
        return "-".join(corpus.fingerprint for corpus in corpora if corpus is not None)

    def read(self, block: int) -> Read:
        """Return a block, and its targets, which must be of the same pixels.

        Raises:
            ShardDamaged: A block cannot be read as it was written.
            LineageError: The targets belong to other pixels.
        """
        dpixels = self.dpixels.dpixels(block)
        if self.targets is None:
            return dpixels, None
        ids, targets = self.targets.targets(block)
        if not np.array_equal(ids, dpixels.pixel_id):
            raise _other_rows("other pixel ids", self.targets.name_of(block))
        return dpixels, targets

    def release(self) -> None:
        """Give back what only helps to read the same blocks again."""
        for corpus in (self.dpixels, self.targets):
            if corpus is not None:
                corpus.store.release()


@dataclass(frozen=True, slots=True)
class Held:
    """A window in memory; lane after lane, in the order of ``Order.rows_of``."""

    rows: Rows
    """Rows of the corpus."""
    s2: Pool
    s1: Pool
    targets: Targets | None
    """(rows, d_T), where the source has them."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        targets = 0 if self.targets is None else self.targets.nbytes
        return self.rows.nbytes + self.s2.nbytes + self.s1.nbytes + targets


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows that follow each other in one block."""

    block: int
    start: int
    length: int


class Windows:
    """The windows of some lanes, one after the other, for the process that opened them.

    Args:
        source: What is read.
        order: Which rows a window has.
        lanes: Lanes of this process.
        damage: Decides about blocks that cannot be read.
    """

    def __init__(self, source: Source, order: Order, lanes: Rows, damage: Damage) -> None:
        self._source, self._order, self._lanes, self._damage = source, order, lanes, damage
        self._held: tuple[Any, Held] | None = None
        self._next: tuple[Any, Future[Held]] | None = None
        self._loader = ThreadPoolExecutor(1, "window")
        self._readers = ThreadPoolExecutor(source.dpixels.store.readers, "block")

    def get(self, epoch: int, window: Window, then: tuple[int, Window] | None) -> Held:
        """Return a window, and begin to read the one that is wanted ``then``.

        Raises:
            ShardDamaged, StorageError, LineageError: As reading a block does.
        """
        wanted = (epoch, window)
        if self._held is None or self._held[0] != wanted:
            self._held = None  # before the next one is begun, so that there are never more
            self._held = (wanted, self._taken(wanted))
        if then is not None and (self._next is None or self._next[0] != then):
            self._next = (then, self._loader.submit(self._load, *then))
        return self._held[1]

    def rewind(self, epoch: int, window: int) -> None:
        """Forget the damage of this window of an epoch and of later ones: they are read again."""
        self._damage.rewind(epoch, window)

    def close(self) -> None:
        """Stop reading ahead."""
        self._loader.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)

    def _taken(self, wanted: tuple[int, Window]) -> Held:
        ahead, self._next = self._next, None
        if ahead is not None and ahead[0] == wanted:
            return ahead[1].result()
        return self._loader.submit(self._load, *wanted).result()

    def _load(self, epoch: int, window: Window) -> Held:
        rows = self._order.rows_of(epoch, window, self._lanes)
        pieces = _cut(rows, self._order.block_rows)
        read = self._read({piece.block for piece in pieces}, epoch, window.number)
        parts = [_rows_of(piece, read[piece.block]) for piece in pieces]
        dpixels = [part for part, _ in parts]
        targets = [part for _, part in parts if part is not None]
        joined = np.concatenate(targets) if targets else None
        held = Held(rows.reshape(-1), pool_s2(dpixels), pool_s1(dpixels), joined)
        self._source.release()
        return held

    def _read(self, blocks: set[int], epoch: int, window: int) -> dict[int, Read]:
        futures = {
            block: self._readers.submit(self._source.read, block) for block in sorted(blocks)
        }
        found: dict[int, Read] = {}
        for block, future in futures.items():
            try:
                found[block] = future.result()
            except ShardDamaged as error:
                self._damage.meet(error, epoch, window, block)
                found[block] = self._instead_of(block, error)
        return found

    def _instead_of(self, block: int, error: ShardDamaged) -> Read:
        """Return the block that stands in for a damaged one: the first good one of a drawn row.

        Decision: it depends on the number of the block alone, so it is the same for any number of
        processes, and drawn, so that a whole missing shard is not replaced by its neighbour. A
        short last block never stands in: its few rows would have to be repeated.
        """
        whole = max(1, self._order.rows // self._order.block_rows)
        for candidate in hash_u64(_INSTEAD, block, np.arange(_TRIES)) % np.uint64(whole):
            try:
                return self._source.read(int(candidate))
            except ShardDamaged:
                continue
        raise ShardDamaged(
            f"{error.expected}, or a good block in its place",
            found=f"{error.found}, and {_TRIES} blocks drawn from the others damaged too",
            where=error.where,
            mend=error.mend,
        )


def _cut(rows: Rows, block_rows: int) -> list[_Piece]:
    """Cut the rows (lane, row) of a window into stretches of one block, in their order."""
    flat, size = rows.reshape(-1), rows.shape[1]
    begins = np.ones(len(flat), dtype=bool)
    begins[1:] = (np.diff(flat) != 1) | (flat[1:] % block_rows == 0)
    begins[::size] = True
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=len(flat))
    return [
        _Piece(*divmod(int(flat[at]), block_rows), int(length))
        for at, length in zip(starts, lengths, strict=True)
    ]


def _rows_of(piece: _Piece, read: Read) -> Read:
    dpixels, targets = read
    start, stop = piece.start, piece.start + piece.length
    return dpixels.slice(start, stop), None if targets is None else targets[start:stop]


def _other_rows(found: str, where: str) -> LineageError:
    return LineageError(
        "targets of the same d-pixels, row by row",
        found=found,
        where=where,
        mend="Cache the targets again: dvc repro -f cache_targets",
    )
