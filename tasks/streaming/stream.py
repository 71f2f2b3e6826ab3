"""The batches of a training, from a corpus: step k is the same rows whoever asks, and whenever.

The one idea: there is no state but the step. Everything else is computed from it: the epoch, the
time along the lanes, the windows, the rows, and the seed of each row's draws.

It deliberately leaves out the end of an epoch that is less than a batch; which rows those are
differs from epoch to epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.hashing import hash_u64
from models.order import Order, Window
from tasks.errors import DataError, ParamsError
from tasks.settings.training import TrainingParams
from tasks.streaming.damage import Damage
from tasks.streaming.windows import Held, Source, Windows

_DRAWS = 0x44524157  # keeps the seeds of rows apart from those of the order


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a batch that are in one window."""

    held: Held
    """The window in memory."""
    at: npt.NDArray[np.int64]
    """Which of its rows, in the order of the batch."""
    seeds: npt.NDArray[np.uint64]
    """A seed for each, from (seed, epoch, row of the corpus)."""

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row of the corpus of each."""
        return self.held.rows[self.at]


class Stream:
    """The part of every batch that one process works on.

    Args:
        windows: What holds the lanes of the process.
        order: The order of the corpus.
        lanes: Lanes of the process, neighbours in pairs.
        batch_size: Rows of a batch over all lanes; a multiple of their number.
        steps: Steps of the whole run; nothing is read for later ones.
    """

    def __init__(
        self,
        windows: Windows,
        order: Order,
        lanes: npt.NDArray[np.int64],
        batch_size: int,
        steps: int,
    ) -> None:
        self._windows, self._order, self._lanes, self._steps = windows, order, lanes, steps
        self._batch_times = batch_size // order.lanes
        self.epoch_steps = order.epoch_rows // batch_size

    def parts(self, step: int) -> list[Part]:
        """Return the rows of a step, in the order of their positions; usually one part."""
        epoch, within = divmod(step, self.epoch_steps)
        begin = within * self._batch_times
        return list(self._parts(epoch, begin, begin + self._batch_times))

    def rewind(self, step: int) -> None:
        """Go on at a step: forget the damage that was recorded of windows that are read again."""
        if step >= self._steps:
            return  # nothing is
        epoch, within = divmod(step, self.epoch_steps)
        window = self._order.window_at(within * self._batch_times)
        self._windows.rewind(epoch, window.number)

    def close(self) -> None:
        """Stop reading ahead."""
        self._windows.close()

    def _parts(self, epoch: int, begin: int, end: int) -> Iterator[Part]:
        while begin < end:
            window = self._order.window_at(begin)
            stop = min(end, window.first + window.size)
            held = self._windows.get(epoch, window, self._after(epoch, window))
            times = np.arange(begin, stop)
            within = self._order.shuffled(epoch, window, times, self._lanes)
            at = (within + np.arange(len(self._lanes)) * window.size).reshape(-1)
            seeds = hash_u64(self._order.seed, _DRAWS, epoch, held.rows[at])
            yield Part(held, at, seeds)
            begin = stop

    def _after(self, epoch: int, window: Window) -> tuple[int, Window] | None:
        """Return the window that is wanted next, if any step needs one."""
        time = window.first + window.size
        if time >= self.epoch_steps * self._batch_times:
            epoch, time = epoch + 1, 0
        if epoch * self.epoch_steps + time // self._batch_times >= self._steps:
            return None
        return epoch, self._order.window_at(time)


def open_stream(
    source: Source, params: TrainingParams, rank: int, world: int, skipped: Path
) -> Stream:
    """Open one process's part of the batches of a run.

    Args:
        source: What is read.
        params: Batch, steps, seed and stream.
        rank: Number of the process.
        world: Number of processes.
        skipped: File in which blocks that are skipped are recorded.

    Raises:
        DataError: The corpus has not enough rows for a batch.
        ParamsError: The lanes cannot be shared evenly.
    """
    chosen, corpus = params.stream, source.dpixels
    if chosen.lanes % (2 * world):
        raise ParamsError(
            f"stream.lanes to be a multiple of twice the processes, {2 * world}",
            found=str(chosen.lanes),
            where="training",
            mend="Change stream.lanes in params.yaml, or the number of processes.",
        )
    rows = corpus.rows_before(chosen.held_out_blocks)
    if params.batch_size > rows:
        raise DataError(
            f"at least one batch of {params.batch_size} d-pixels",
            found=f"{rows} in the shards, without {chosen.held_out_blocks} blocks held out",
            where="training",
            mend="Lower batch_size or stream.held_out_blocks in params.yaml, or pack a larger archive.",
        )
    shape = (rows, corpus.block_rows, chosen.lanes, chosen.window_blocks)
    order = Order(*shape, seed=params.seed)
    own = chosen.lanes // world
    lanes = np.arange(rank * own, (rank + 1) * own)
    allowed = int(chosen.max_damaged_share * corpus.num_blocks / world)
    windows = Windows(source, order, lanes, Damage(chosen.on_damage, allowed, skipped))
    return Stream(windows, order, lanes, params.batch_size, params.steps)
