"""Small corpora for the tests of streaming and training."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels, Series, offsets_of
from tasks.shards.index import Block, ShardEntry, write_index
from tasks.shards.rows import DPIXEL_SCHEMA, encode_dpixels, encode_targets, target_schema
from tasks.shards.writer import ShardWriter


def make_dpixels(num: int, *, seed: int, least: int = 0, most: int = 30) -> DPixels:
    """Build d-pixels with ``least`` to ``most - 1`` observations of each kind, days rising."""
    random = np.random.default_rng(seed)

    def series(num_bands: int, kind: type[np.generic]) -> Series:
        counts = random.integers(least, most, num)
        total = int(counts.sum())
        # Each d-pixel has levels of its own, so two views of it have something in common.
        level = np.repeat(random.integers(500, 9000, (num, num_bands)), counts, axis=0)
        values = (level + random.integers(-300, 300, (total, num_bands))).astype(kind)
        days = [np.sort(random.choice(366, int(count), replace=False)) + 1 for count in counts]
        doy = np.concatenate([np.zeros(0, np.int64), *days]).astype(np.int16)
        return Series(values, doy, offsets_of(counts))

    return DPixels(
        np.arange(num, dtype=np.uint64) + np.uint64(1000),
        series(10, np.uint16),
        series(2, np.int16),
        series(2, np.int16),
    )


def write_corpus(folder: Path, dpixels: DPixels, *, block_rows: int, shard_blocks: int) -> None:
    """Write d-pixels as a corpus, in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[tuple[ShardEntry, list[Block]]] = []
    for number, begin in enumerate(range(0, len(dpixels), block_rows * shard_blocks)):
        end = min(begin + block_rows * shard_blocks, len(dpixels))
        with ShardWriter(folder / f"dpixels-{number:05d}.arrow", DPIXEL_SCHEMA) as writer:
            for at in range(begin, end, block_rows):
                writer.add(encode_dpixels(dpixels.slice(at, min(at + block_rows, end))))
            shards.append((writer.finish(), writer.blocks))
    write_index(folder, "dpixels", block_rows, shards, {})


def write_target_corpus(
    folder: Path,
    pixel_id: npt.NDArray[np.uint64],
    targets: npt.NDArray[np.float32],
    *,
    block_rows: int,
) -> None:
    """Write targets as a corpus of one shard."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = target_schema(targets.shape[1])
    with ShardWriter(folder / "targets-00000.arrow", schema) as writer:
        for at in range(0, len(pixel_id), block_rows):
            part = slice(at, at + block_rows)
            writer.add(encode_targets(pixel_id[part], targets[part], schema))
        shards = [(writer.finish(), writer.blocks)]
    write_index(
        folder, "targets", block_rows, shards, {"dim": targets.shape[1], "dtype": "float16"}
    )
