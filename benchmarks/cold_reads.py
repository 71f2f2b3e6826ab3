"""Reading a corpus that is not in memory: in the order of a training, and row by row at random.

An epoch is read in order, a few thousand rows at random: so few that hardly any page is met twice,
as with a corpus that is larger than the memory.
"""

import ctypes
import mmap
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels
from models.order import Order
from tasks.streaming.corpus import Corpus, open_corpus
from tasks.streaming.damage import Damage
from tasks.streaming.windows import Source, Windows

LANES, WINDOW_BLOCKS = 8, 2
RANDOM_ROWS = 6000
ROUNDS = 3


def measure_cold(folder: Path, work: Path) -> dict[str, Any]:
    """Compare rows a second by the clock, the pages of all shards dropped before each run.

    Random reads are taken twice, as the kernel does by itself and advised not to read ahead; the
    ratio is that to the faster one.
    """
    advices = {"random": mmap.MADV_NORMAL, "random_advised": mmap.MADV_RANDOM}
    seconds: dict[str, list[float]] = {name: [] for name in ("block_shuffled", *advices)}
    left: list[float] = []
    corpus = open_corpus(str(folder), "dpixels")
    for seed in range(ROUNDS):
        left.append(drop_pages(folder))
        start = time.perf_counter()
        rows = read_in_order(folder, work, seed)
        seconds["block_shuffled"].append((time.perf_counter() - start) / rows)
        for name, advice in advices.items():
            left.append(drop_pages(folder))
            chosen = np.random.default_rng(seed).integers(0, len(corpus), RANDOM_ROWS)
            start = time.perf_counter()
            read_at_random(corpus, map_shards(folder, advice), chosen)
            seconds[name].append((time.perf_counter() - start) / len(chosen))
    rates = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    return {
        "dpixels_per_s": rates,
        "times_random": rates["block_shuffled"] / max(rates[name] for name in advices),
        "pages_left_in_memory_before": max(left),
        "corpus_mb": sum(path.stat().st_size for path in folder.glob("*.arrow")) / 1e6,
        "random_rows": RANDOM_ROWS,
    }


def read_in_order(folder: Path, work: Path, seed: int) -> int:
    """Read an epoch as a training of one process does, digests included; return its rows."""
    corpus = open_corpus(str(folder), "dpixels")
    order = Order(len(corpus), corpus.block_rows, LANES, WINDOW_BLOCKS, seed)
    damage = Damage("stop", 0, work / "skipped.jsonl")
    windows = Windows(Source(corpus), order, np.arange(LANES), damage)
    time_, window = 0, order.window_at(0)
    while True:
        time_ = window.first + window.size
        after = order.window_at(time_) if time_ < order.lane_rows else None
        windows.get(0, window, None if after is None else (0, after))
        if after is None:
            break
        window = after
    windows.close()
    return order.epoch_rows


def read_at_random(corpus: Corpus, maps: dict[str, mmap.mmap], rows: npt.NDArray[np.int64]) -> None:
    """Take single rows from mapped shards, without a digest: only the pages that they are on."""
    decoded: dict[int, DPixels] = {}
    for row in rows.tolist():
        block, within = divmod(row, corpus.block_rows)
        if block not in decoded:
            decoded[block] = _decode(corpus, maps, block)
        decoded[block].slice(within, within + 1).take(np.zeros(1, np.int64))


def _decode(corpus: Corpus, maps: dict[str, mmap.mmap], number: int) -> DPixels:
    """Return a block as views of the mapped file; only its offsets are read."""
    import pyarrow as pa

    from tasks.shards.rows import DPIXEL_SCHEMA, decode_dpixels

    shard, block = corpus.index.block(number)
    content = memoryview(maps[shard.name])[block.offset : block.offset + block.length]
    batch = pa.ipc.read_record_batch(pa.py_buffer(content), DPIXEL_SCHEMA)
    return decode_dpixels(batch)


def map_shards(folder: Path, advice: int) -> dict[str, mmap.mmap]:
    """Map every shard, and tell the kernel how it will be read."""
    maps = {}
    for path in sorted(folder.glob("dpixels-*.arrow")):
        with path.open("rb") as stream:
            maps[path.name] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        maps[path.name].madvise(advice)
    return maps


def drop_pages(folder: Path) -> float:
    """Drop the cached pages of all shards; return the share that is still there."""
    left = total = 0
    for path in sorted(folder.glob("*.arrow")):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        resident, pages = pages_in_memory(path)
        left, total = left + resident, total + pages
    return left / total


def pages_in_memory(path: Path) -> tuple[int, int]:
    """Ask the kernel (mincore) how many pages of a file are cached, and how many it has."""
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    view = np.frombuffer(mapped, np.uint8)
    pages = -(-len(view) // mmap.PAGESIZE)
    state = np.zeros(pages, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    address, length = ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(view))
    if libc.mincore(address, length, state.ctypes.data_as(ctypes.c_void_p)):
        raise OSError(ctypes.get_errno(), "mincore")
    return int((state & 1).sum()), pages
