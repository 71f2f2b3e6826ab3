"""Second pass: merge the runs into shards, each from its exact range of keys.

The one idea: the rank of a shard's first d-pixel is known (shard number times rows a shard), so its
key is found exactly by one pass over the keys alone. Then every shard is a range of keys, and is made
on its own: read its piece of each run, order it, cut it into blocks. Shards are therefore the same
whatever the memory, the runs, the threads or the interruptions were. A shard is finished when its
record ``dpixels-00000.json`` is there.

Memory: a shard is held twice while it is ordered, and less while it is measured; so many threads
work as may each have four times its size.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels
from tasks.errors import ParamsError
from tasks.files import write_json
from tasks.packing.mixing import batch_rows, tally_mixing
from tasks.packing.spill import Run, read_keys, read_range
from tasks.packing.statistics import tally
from tasks.progress import track
from tasks.settings.data import PackParams
from tasks.shards.records import entry_record
from tasks.shards.rows import DPIXEL_SCHEMA, encode_dpixels
from tasks.shards.taking import take_dpixels
from tasks.shards.writer import ShardWriter
from tasks.validation.tables import shard_statistics

_COPIES = 4  # of a shard: read, ordered, and what measures it; the rest is room
_KEYS_SHARE = 32  # of the budget, in bytes a key: sorting needs a copy, and ranges differ in size
_ALL = 1 << 64  # above every key


@dataclass(frozen=True, slots=True)
class Job:
    """One shard to make."""

    name: str
    """File name."""
    low: int
    """Lowest key."""
    high: int
    """First key above; 2**64 for the last shard."""


def shard_names(rows: int, params: PackParams) -> list[str]:
    """Return the names of all shards of a corpus of so many rows."""
    return [f"dpixels-{number:05d}.arrow" for number in range(-(-rows // params.rows_per_shard))]


def unfinished(shards: Path, names: Sequence[str]) -> list[int]:
    """Return the numbers of the shards that are not there as their records say, rising."""
    return [number for number, name in enumerate(names) if not _is_finished(shards / name)]


def _is_finished(path: Path) -> bool:
    if not (path.exists() and _record(path).exists()):
        return False
    recorded = json.loads(_record(path).read_text())["entry"]["size"]
    return bool(path.stat().st_size == recorded)


def gather(
    runs: Sequence[Run],
    sources: Counter[int],
    shards: Path,
    missing: Sequence[int],
    params: PackParams,
) -> None:
    """Make shards.

    Args:
        runs: The runs of the first pass.
        sources: D-pixels of the corpus by number of their source.
        shards: Folder for shards and their records.
        missing: Numbers of the shards to make, rising.
        params: Settings of the stage.

    Raises:
        ParamsError: One shard is more than the memory allows.
    """
    shards.mkdir(exist_ok=True)
    names = shard_names(sum(run.rows for run in runs), params)
    threads = num_threads(runs, params)
    jobs = _jobs(runs, names, params)

    def make(number: int) -> None:
        make_shard(runs, jobs[number], sources, shards, params)

    with ThreadPoolExecutor(threads) as pool:
        done, start = pool.map(make, missing), len(names) - len(missing)
        for _ in track(done, label="shuffle", total=len(names), start=start, unit="shards"):
            pass


def num_threads(runs: Sequence[Run], params: PackParams) -> int:
    """Return how many shards may be made at once.

    Raises:
        ParamsError: Not even one fits the memory.
    """
    rows = sum(run.rows for run in runs)
    shard = sum(run.size for run in runs) / rows * min(rows, params.rows_per_shard)
    fitting = int(params.memory_mb * 10**6 // (_COPIES * shard))
    if fitting < 1:
        raise ParamsError(
            f"shards of at most {params.memory_mb / _COPIES:.0f} MB, a quarter of pack.memory_mb",
            found=f"{shard / 1e6:.0f} MB at {params.rows_per_shard} rows",
            where="pack.rows_per_shard",
            mend="Lower pack.rows_per_shard, or raise pack.memory_mb.",
        )
    return min(params.threads, fitting)


def _jobs(runs: Sequence[Run], names: Sequence[str], params: PackParams) -> list[Job]:
    first_rows = np.arange(len(names)) * params.rows_per_shard
    lows = keys_of_ranks(runs, first_rows, budget=params.memory_mb * 10**6)
    bounds = pairwise([*lows, _ALL])
    return [Job(name, low, high) for name, (low, high) in zip(names, bounds, strict=True)]


def keys_of_ranks(runs: Sequence[Run], ranks: npt.NDArray[np.int64], *, budget: int) -> list[int]:
    """Return the key of each d-pixel that has one of these ranks (rising) in the whole corpus.

    Equal ranges of keys are read from all runs and sorted, one after the other.
    """
    parts = -(-sum(run.rows for run in runs) * _KEYS_SHARE // budget)
    below, found = 0, []
    for low, high in pairwise(part * _ALL // parts for part in range(parts + 1)):
        inside = np.sort(read_keys(runs, low, high))
        first, last = np.searchsorted(ranks, (below, below + len(inside)))
        found += inside[ranks[first:last] - below].tolist()
        below += len(inside)
    return found


def make_shard(
    runs: Sequence[Run], job: Job, sources: Counter[int], shards: Path, params: PackParams
) -> None:
    """Write one shard and its record: entry, blocks, statistics, mixing, and the verdict's row."""
    dpixels = _ordered(runs, job)
    size = params.block_rows
    with ShardWriter(shards / job.name, DPIXEL_SCHEMA) as writer, ThreadPoolExecutor(1) as disk:
        for start in range(0, len(dpixels), size):
            writer.add(encode_dpixels(dpixels.slice(start, start + size)))
        flushed = disk.submit(writer.finish)  # the disk works while the processor counts
        measured = _measure(job.name, dpixels, sources, params)
        record = entry_record(flushed.result(), writer.blocks) | measured
    write_json(_record(shards / job.name), record)


def _measure(
    name: str, dpixels: DPixels, sources: Counter[int], params: PackParams
) -> dict[str, Any]:
    batch = batch_rows(sum(sources.values()), params.block_rows, params.rows_per_shard)
    return {
        "statistics": tally(dpixels),
        "mixing": tally_mixing(dpixels.pixel_id, sources, batch),
        "row": shard_statistics(name, dpixels, min_s2=params.min_s2, min_s1=params.min_s1),
    }


def _ordered(runs: Sequence[Run], job: Job) -> DPixels:
    keys, joined = read_range(runs, job.low, job.high)
    return take_dpixels(joined, np.argsort(keys))


def read_shards(shards: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the records of the shards in their order."""
    for name in names:
        yield json.loads(_record(shards / name).read_text())


def _record(path: Path) -> Path:
    return path.with_suffix(".json")
