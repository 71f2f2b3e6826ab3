"""The order in which a training sees a corpus: a pure function of (seed, epoch, position).

The one idea: an epoch is `lanes` walks side by side. Position i belongs to lane `i % lanes`; each
lane goes through blocks of its own, a window of a few blocks at a time, and inside a window all its
rows are shuffled. So a process that owns some lanes reads its own blocks only, once, a window is
one piece of memory, and the order of the whole is the same for any number of processes. Shuffling
is a permutation that is computed place by place: it takes no memory, whatever the corpus.

Blocks that do not fill all lanes evenly, and the short last block, are the *loose* rows: they are
cut into one slice a lane, which is the first window of the epoch. Decision: first and not last,
because what is left of an epoch after its last whole batch is never seen, and the loose rows would
always be among that. Up to `lanes - 1` loose rows are left out of an epoch, others in each.

It deliberately reads nothing: which bytes a block is, is `tasks.streaming`.

Axis words: `lane` the lanes asked for, `time` steps along them, `row` rows of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.hashing import Part, hash_u64

if TYPE_CHECKING:
    from jaxtyping import Int64, Integer

_ROUNDS = 8  # four are uneven by every test, six on sides of 8; eight by none
_SHORTEST_SIDE = 8
_BLOCKS, _TURN, _ROWS = 0x424C4F43, 0x5455524E, 0x524F5753  # parts that keep the draws apart


def permute(index: Part, size: Part, seed: Part) -> Int64[np.ndarray, "..."]:
    """Return where a permutation of range(size), chosen by the seed, sends each index.

    A Feistel network on a rectangle of about sqrt(size) by sqrt(size) places; what falls outside
    range(size) is sent on until it is inside (cycle walking). Time and memory are those of
    `index`, not of `size`.

    Args:
        index: whole numbers in 0..size - 1.
        size: one size, or one for each index; at least 1, below 2**62.
        seed: one seed, or one for each index.

    Returns:
        Int64 of the broadcast shape of the three.

    Raises:
        ValueError: if an index is outside its range.

    Source: J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", 2002.
    """
    seeds = hash_u64(seed)
    places, sizes, _ = np.broadcast_arrays(
        np.asarray(index, dtype=np.int64), np.asarray(size, dtype=np.int64), seeds
    )
    if np.any((places < 0) | (places >= sizes)):
        raise ValueError("expected every index in 0..size - 1")
    width = np.maximum(np.ceil(np.sqrt(sizes)).astype(np.int64), _SHORTEST_SIDE)
    height = np.maximum(-(-sizes // width), _SHORTEST_SIDE)
    low, high, end = (part.astype(np.uint64) for part in (width, height, sizes))
    keys = [np.broadcast_to(hash_u64(seeds, step), places.shape) for step in range(_ROUNDS)]
    found = _feistel(places.astype(np.uint64), low, high, keys)
    while (outside := found >= end).any():
        again = [key[outside] for key in keys]
        found[outside] = _feistel(found[outside], low[outside], high[outside], again)
    return found.astype(np.int64)


def _feistel(
    places: np.ndarray, low: np.ndarray, high: np.ndarray, keys: list[np.ndarray]
) -> np.ndarray:
    """Mix the two coordinates of each place in a rectangle of low * high places."""
    column, row = places % low, places // low
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        # The top bit is cleared so that the sum cannot overflow: adding is then one-to-one.
        column = (column + (hash_u64(even ^ row) >> np.uint64(1))) % low
        row = (row + (hash_u64(odd ^ column) >> np.uint64(1))) % high
    return np.asarray(row * low + column)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of an epoch during which every lane stays within the same few blocks."""

    number: int
    """Place in the epoch, from 0; window 0 holds the loose rows."""
    first: int
    """Time at which it begins: rows that each lane has passed in this epoch."""
    size: int
    """Rows of each lane in it, >= 1."""


@dataclass(frozen=True)
class Order:
    """The order of the rows of a corpus in every epoch.

    Raises:
        ValueError: if a number is below 1 or the corpus has fewer rows than lanes.
    """

    rows: int
    """Rows of the corpus."""
    block_rows: int
    """Rows of every block but the last."""
    lanes: int
    """Walks side by side; an even number of them for each process."""
    window_blocks: int
    """Blocks of a lane among which its rows are shuffled."""
    seed: int

    def __post_init__(self) -> None:
        if min(self.block_rows, self.lanes, self.window_blocks) < 1:
            raise ValueError(
                f"expected block_rows, lanes and window_blocks >= 1, got {self.block_rows}, "
                f"{self.lanes} and {self.window_blocks}"
            )
        if self.rows < self.lanes:
            raise ValueError(f"expected at least one row a lane, got {self.rows} for {self.lanes}")

    @property
    def lane_blocks(self) -> int:
        """Whole blocks of each lane. At least `lanes` rows stay loose, so no row is always left out."""
        return (self.rows - self.lanes) // (self.lanes * self.block_rows)

    @property
    def loose_rows(self) -> int:
        """Rows of the corpus that are in no lane's whole blocks."""
        return self.rows - self.lane_blocks * self.lanes * self.block_rows

    @property
    def lane_rows(self) -> int:
        """Rows of each lane in an epoch."""
        return self.rows // self.lanes

    @property
    def epoch_rows(self) -> int:
        """Positions of an epoch: the rows but for less than one a lane."""
        return self.lane_rows * self.lanes

    def window_at(self, time: int) -> Window:
        """Return the window that a lane is in after `time` rows of an epoch.

        Raises:
            ValueError: if the epoch is over by then.
        """
        if not 0 <= time < self.lane_rows:
            raise ValueError(f"expected a time in 0..{self.lane_rows - 1}, got {time}")
        loose = self.loose_rows // self.lanes
        if time < loose:
            return Window(0, 0, loose)
        whole = self.window_blocks * self.block_rows
        number = (time - loose) // whole
        first = loose + number * whole
        return Window(number + 1, first, min(whole, self.lane_rows - first))

    def rows_of(
        self, epoch: int, window: Window, lanes: Integer[np.ndarray, " lane"]
    ) -> Int64[np.ndarray, "lane row"]:
        """Return the rows of the corpus that are in a window, before they are shuffled.

        Rows that follow each other in one block do so here, so that they can be read together.
        """
        lanes, along = np.asarray(lanes, dtype=np.int64)[:, None], np.arange(window.size)
        if window.number == 0:
            return self._loose(epoch, lanes * window.size + along)
        first = (window.number - 1) * self.window_blocks
        inside = np.arange(window.size // self.block_rows)
        blocks = self._block(epoch, (first + inside) * self.lanes + lanes)
        rows = blocks[:, :, None] * self.block_rows + np.arange(self.block_rows)
        return rows.reshape(len(lanes), window.size)

    def shuffled(
        self,
        epoch: int,
        window: Window,
        times: Integer[np.ndarray, " time"],
        lanes: Integer[np.ndarray, " lane"],
    ) -> Int64[np.ndarray, "time lane"]:
        """Return which of a window's rows each lane is at, at these times of the epoch.

        Position `times[i] * lanes + lanes[j]` of the epoch is row `rows_of(...)[j, shuffled[i, j]]`.
        """
        seeds = hash_u64(self.seed, _ROWS, epoch, window.number, np.asarray(lanes))
        return permute(np.asarray(times)[:, None] - window.first, window.size, seeds[None, :])

    def _block(self, epoch: int, slots: np.ndarray) -> np.ndarray:
        """Return the whole block at each slot of the epoch's order of blocks."""
        return permute(slots, self.rows // self.block_rows, hash_u64(self.seed, _BLOCKS, epoch))

    def _loose(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """Return the loose rows at these places: whole blocks first, then the short last one.

        They are turned by a drawn number of rows, so that the ones left out are others each time.
        """
        turn = int(hash_u64(self.seed, _TURN, epoch) % np.uint64(self.loose_rows))
        at = (places + turn) % self.loose_rows
        taken, whole = self.lane_blocks * self.lanes, self.rows // self.block_rows
        in_whole = at < (whole - taken) * self.block_rows
        rows = at + taken * self.block_rows  # right for the last block; slots are sent to blocks
        slots = rows[in_whole] // self.block_rows
        rows[in_whole] += (self._block(epoch, slots) - slots) * self.block_rows
        return rows
