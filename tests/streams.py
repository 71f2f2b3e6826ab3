"""Streams over the small corpora of the tests, and what damages them."""

from pathlib import Path
from typing import Any

import numpy as np

from models.dpixel import DPixels
from tasks.params import read_params
from tasks.settings.training import PretrainParams
from tasks.streaming.corpus import open_corpus
from tasks.streaming.stream import Part, Stream, open_stream
from tasks.streaming.windows import Source
from tests.corpora import make_dpixels, write_corpus

ROWS, BLOCK_ROWS, STEPS = 330, 16, 23
_REPOSITORY = Path(__file__).parents[1]


def write_small(folder: Path) -> DPixels:
    """Write the corpus of these tests: 21 blocks in 5 shards, the last block short."""
    dpixels = make_dpixels(ROWS, seed=1)
    write_corpus(folder, dpixels, block_rows=BLOCK_ROWS, shard_blocks=5)
    return dpixels


def settings(**changes: Any) -> PretrainParams:
    section = read_params(_REPOSITORY / "params.yaml").pretrain.complete()
    stream = {"lanes": 8, "window_blocks": 2, "on_damage": "stop", "max_damaged_share": 0.0}
    stream["held_out_blocks"] = 0
    stream |= {name: changes.pop(name) for name in list(changes) if name in stream}
    execution = section["execution"]
    execution |= {name: changes.pop(name) for name in list(changes) if name in execution}
    section |= {"batch_size": 32, "steps": STEPS, "stream": stream}
    return PretrainParams.model_validate(section | changes)


def stream_of(
    source: Source, tmp_path: Path, rank: int = 0, world: int = 1, **changes: Any
) -> Stream:
    record = tmp_path / f"skipped-{rank}.jsonl"
    return open_stream(source, settings(**changes), rank, world, record)


def local(folder: Path) -> Source:
    return Source(open_corpus(str(folder), "dpixels"))


def rows_of(parts: list[Part]) -> np.ndarray:
    return np.concatenate([part.rows for part in parts])


def seeds_of(parts: list[Part]) -> np.ndarray:
    return np.concatenate([part.seeds for part in parts])


def ids_of(parts: list[Part], dpixels: DPixels) -> np.ndarray:
    """Return the pixel ids that a batch's observations really belong to, by their bytes."""
    known = {_content(dpixels, row): int(dpixels.pixel_id[row]) for row in range(len(dpixels))}
    found = []
    for part in parts:
        s2 = part.held.s2
        for row in part.at:
            first, count = int(s2.first[row, 0]), int(s2.counts[row, 0])
            content = s2.values[first : first + count].tobytes()
            found.append(known.get(content, -1) if count else -2)
    return np.array(found)


def _content(dpixels: DPixels, row: int) -> bytes:
    begin, end = dpixels.s2.offsets[row : row + 2]
    return dpixels.s2.values[begin:end].tobytes()


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))


def damage_block(folder: Path, number: int) -> str:
    """Flip a bit in the middle of a block; return its shard."""
    shard, block = open_corpus(str(folder), "dpixels").index.block(number)
    flip(folder / shard.name, block.offset + block.length // 2)
    return shard.name


def run(stream: Stream, steps: int = STEPS) -> list[list[Part]]:
    try:
        return [stream.parts(step) for step in range(steps)]
    finally:
        stream.close()
