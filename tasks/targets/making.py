"""The teacher's pass over one shard: targets, checked row by row, and what is known about them.

The one idea: whole blocks go through the teacher a few at a time, in the order of the shard, so
memory holds a few blocks, and block i of the targets has the rows of block i of the d-pixels.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from models.diagnostics import Moments
from models.dpixel import DPixels
from models.encode import Encoder
from tasks.embedding.blocks import BLOCK_DPIXELS, Block, embed_blocks, num_tokens
from tasks.progress import Meter
from tasks.shards.rows import encode_targets, target_schema
from tasks.shards.writer import ShardWriter
from tasks.streaming.corpus import Corpus
from tasks.targets.address import Address
from tasks.targets.checks import Rounding, require_targets, rounded
from tasks.targets.entry import TARGETS, Entry


def group_rows(corpus: Corpus) -> int:
    """Return how many rows the teacher is given at once: whole blocks, several where they are small."""
    return max(1, BLOCK_DPIXELS // corpus.block_rows) * corpus.block_rows


def make_targets(
    teacher: Encoder,
    corpus: Corpus,
    number: int,
    folder: Path,
    address: Address,
    *,
    workers: int,
    meter: Meter,
) -> Entry:
    """Write the targets of one shard into a folder.

    Args:
        teacher: Ready to encode.
        corpus: The d-pixels.
        number: Of the shard.
        folder: Gets ``targets.arrow``.
        address: Of these targets.
        workers: Threads.
        meter: Counts what was encoded.

    Raises:
        TargetsUnfit: An embedding is not finite, or not one that a layer norm makes.
        ShardDamaged, StorageError: A block of d-pixels cannot be read.
    """
    shard, schema = corpus.index.shards[number], target_schema(teacher.dim, address.dtype)
    moments, rounding, block_rows = Moments(teacher.dim), Rounding(), corpus.block_rows
    block = corpus.blocks_of(number).start
    with ShardWriter(folder / TARGETS, schema) as writer:
        for group in embed_blocks(teacher, _groups(corpus, number), workers=workers):
            require_targets(group, shard=shard.name, first_block=block, block_rows=block_rows)
            stored = rounded(group.embedding, address.dtype)
            rounding.add(group.embedding, stored)
            moments.add(torch.from_numpy(stored))
            ids = group.rows.view(np.uint64)
            for at in range(0, len(ids), block_rows):
                part = slice(at, at + block_rows)
                writer.add(encode_targets(ids[part], stored[part], schema))
                block += 1
            meter.advance(len(ids), num_tokens(group.observations))
        written = writer.finish()
    return Entry(address, written, writer.blocks, moments, rounding)


def _groups(corpus: Corpus, number: int) -> Iterator[Block]:
    """Yield the blocks of a shard under their pixel ids, as many together as ``group_rows`` says."""
    blocks, together = corpus.blocks_of(number), group_rows(corpus) // corpus.block_rows
    for at in range(0, len(blocks), together):
        dpixels = DPixels.concatenate([corpus.dpixels(n) for n in blocks[at : at + together]])
        corpus.store.release()
        yield dpixels.pixel_id.view(np.int64), dpixels
