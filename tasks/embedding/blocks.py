"""From d-pixels to embeddings, block by block: tiles, point tables and shards come through here.

The one idea: a source yields blocks of d-pixels, and a few workers of one thread each encode them
while the next block is read. Blocks come back in their order, so whoever writes them can stop and
go on anywhere, and memory holds a few blocks whatever the size of the source.

It deliberately keeps nothing on the disk and does not quantise.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.dpixel import DPixels
from models.encode import Encoder
from tasks.tiles import Array, Tile, dpixels_of, release

BLOCK_DPIXELS = 4096
"""D-pixels of a block: enough to fill chunks well, few enough to hold several."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What is known about the d-pixels of a block."""

    rows: npt.NDArray[np.int64]
    """(n,): where they belong in their source, e.g. flat pixel indices of a tile."""
    embedding: npt.NDArray[np.float32]
    """(n, dim); NaN where a pixel was not observed by either sensor."""
    observations: npt.NDArray[np.uint16]
    """(n, 3): valid observations of Sentinel-2, Sentinel-1 ascending, Sentinel-1 descending."""


Block = tuple[npt.NDArray[np.int64], DPixels]
"""Rows in the source, and the d-pixels there."""


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def embed_blocks(encoder: Encoder, blocks: Iterable[Block], *, workers: int) -> Iterator[Embedded]:
    """Encode blocks on several threads; yield the results in the order of the blocks.

    Args:
        encoder: From ``models.encode``.
        blocks: Read one by one on this thread while the workers compute.
        workers: Threads; each runs kernels of one thread, because small ones do not share well.

    Raises:
        Whatever reading or encoding a block raises, after the blocks before it.
    """
    pool = ThreadPoolExecutor(workers, "embed", initializer=torch.set_num_threads, initargs=(1,))
    pending: deque[Future[Embedded]] = deque()
    try:
        for future in _submitted(pool, encoder, blocks):
            pending.append(future)
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(
    pool: ThreadPoolExecutor, encoder: Encoder, blocks: Iterable[Block]
) -> Iterator[Future[Embedded]]:
    try:
        for rows, dpixels in blocks:
            yield pool.submit(_embed, encoder, rows, dpixels)
    except Exception as error:  # noqa: BLE001 - raised in its turn, behind the blocks before it
        failed: Future[Embedded] = Future()
        failed.set_exception(error)
        yield failed


def _embed(encoder: Encoder, rows: npt.NDArray[np.int64], dpixels: DPixels) -> Embedded:
    return Embedded(rows, encoder.encode(dpixels), count_observations(dpixels))


def tile_blocks(tile: Tile, rows: Array, *, start: int = 0) -> Iterator[Block]:
    """Yield the d-pixels at flat indices ``rows`` (rising), from block number ``start`` on."""
    for at in range(start * BLOCK_DPIXELS, len(rows), BLOCK_DPIXELS):
        part = rows[at : at + BLOCK_DPIXELS]
        yield part, dpixels_of(tile, part, first_id=0)
        release(tile)


def embed_pixels(encoder: Encoder, tile: Tile, rows: Array) -> npt.NDArray[np.float32]:
    """Return the embeddings (n, dim) of chosen pixels (flat indices, rising) of a tile."""
    parts = [encoder.encode(dpixels) for _, dpixels in tile_blocks(tile, rows)]
    return np.concatenate(parts) if parts else np.zeros((0, encoder.dim), np.float32)


def count_observations(dpixels: DPixels) -> npt.NDArray[Any]:
    """Return (n, 3) counts: Sentinel-2, Sentinel-1 ascending, Sentinel-1 descending."""
    return np.stack(
        [dpixels.s2.counts, dpixels.s1_asc.counts, dpixels.s1_desc.counts], axis=1
    ).astype(np.uint16)


def num_tokens(observations: npt.NDArray[np.uint16]) -> int:
    """Return how many observations a block holds."""
    return int(observations.sum(dtype=np.int64))
