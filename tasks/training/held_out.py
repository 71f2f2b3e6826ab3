"""D-pixels that no step of a training reads, on which its loss is measured.

The one idea: a corpus is shuffled when it is packed, so its last blocks are a fair draw of it. They
are left out of the order of batches, and read once. Their views are drawn from seeds of their own,
the same at every probe, so losses of two checkpoints differ by the weights alone.

It is a measure of optimisation and no more: neighbours of held-out pixels are in the training, and
what a model is worth is measured on labels. It deliberately selects nothing.
"""

from dataclasses import dataclass

import numpy as np

from models.dpixel import DPixels
from models.hashing import hash_u64
from models.pools import pool_s1, pool_s2
from tasks.errors import ParamsError
from tasks.settings.training import TrainingParams
from tasks.streaming.stream import Part
from tasks.streaming.windows import Held, Source

_HELD_OUT = 0x48454C44  # keeps the seeds of these rows apart from those of training


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The rows in memory."""

    dpixels: DPixels
    part: Part
    """The same rows with their targets, if any, and the seeds of their views."""


def read_held_out(source: Source, params: TrainingParams) -> HeldOut | None:
    """Read the blocks that are held out; ``None`` if there are none.

    Raises:
        ParamsError: The corpus has no more blocks than are held out.
        ShardDamaged: One cannot be read, whatever ``stream.on_damage`` says of the others: a loss on
            fewer rows is another measure.
    """
    wanted, there = params.stream.held_out_blocks, source.dpixels.num_blocks
    if not wanted:
        return None
    if wanted >= there:
        raise ParamsError(
            f"fewer held-out blocks than the corpus has, {there}",
            found=str(wanted),
            where="stream.held_out_blocks in params.yaml",
            mend="Lower it, or pack smaller blocks (pack.block_rows).",
        )
    read = [source.read(block) for block in range(there - wanted, there)]
    blocks = [dpixels for dpixels, _ in read]
    targets = [part for _, part in read if part is not None]
    rows = np.arange(source.dpixels.rows_before(wanted), len(source.dpixels))
    joined = np.concatenate(targets) if targets else None
    held = Held(rows, pool_s2(blocks), pool_s1(blocks), joined)
    seeds = hash_u64(params.seed, _HELD_OUT, rows)
    return HeldOut(DPixels.concatenate(blocks), Part(held, np.arange(len(rows)), seeds))
