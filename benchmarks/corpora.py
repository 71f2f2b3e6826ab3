"""Made-up corpora, a block of random d-pixels repeated, and settings to stream them with."""

from pathlib import Path
from typing import Any

import numpy as np

from models.dpixel import DPixels, Series, offsets_of
from tasks.params import read_params
from tasks.settings.training import PretrainParams
from tasks.shards.index import Block, ShardEntry, write_index
from tasks.shards.rows import DPIXEL_SCHEMA, encode_dpixels
from tasks.shards.writer import ShardWriter

REPOSITORY = Path(__file__).parents[1]
ZERO_1 = REPOSITORY / "infra" / "deepspeed" / "zero1.json"


def made_up(num: int, seed: int) -> DPixels:
    """Return d-pixels of about 37 optical and 60 radar observations."""
    random = np.random.default_rng(seed)

    def series(least: int, most: int, num_bands: int, kind: type[np.generic]) -> Series:
        counts = random.integers(least, most, num)
        total = int(counts.sum())
        values = random.integers(1, 9000, (total, num_bands)).astype(kind)
        return Series(values, random.integers(1, 367, total).astype(np.int16), offsets_of(counts))

    return DPixels(
        np.arange(num, dtype=np.uint64),
        *(series(20, 55, 10, np.uint16), series(20, 41, 2, np.int16), series(20, 41, 2, np.int16)),
    )


def write_blocks(folder: Path, block: DPixels, blocks: int, *, shard_blocks: int) -> None:
    """Write a corpus that repeats a block."""
    folder.mkdir(exist_ok=True)
    shards: list[tuple[ShardEntry, list[Block]]] = []
    for number in range(-(-blocks // shard_blocks)):
        with ShardWriter(folder / f"dpixels-{number:05d}.arrow", DPIXEL_SCHEMA) as writer:
            for _ in range(min(shard_blocks, blocks - number * shard_blocks)):
                writer.add(encode_dpixels(block))
            shards.append((writer.finish(), writer.blocks))
    write_index(folder, "dpixels", len(block), shards, {})


def settings(**changes: Any) -> PretrainParams:
    """Return pretraining of the repository's settings on one thread, with some changed.

    Names of ``execution`` are set there.
    """
    section = read_params(REPOSITORY / "params.yaml").pretrain.complete()
    section["stream"] |= {"lanes": 8, "window_blocks": 2}
    execution = section["execution"] | {"threads": 1}
    execution |= {name: changes.pop(name) for name in execution.keys() & changes.keys()}
    return PretrainParams.model_validate(section | changes | {"execution": execution})
