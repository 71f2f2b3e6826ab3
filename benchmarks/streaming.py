"""Measure streaming: views, the loader's share of a step, cold reads, memory, the digest's share.

    python -m benchmarks.streaming                everything, about ten minutes
    python -m benchmarks.streaming --only views   one part: views, share, cold, memory, digest

CPU time of one thread, taken in turn, medians, but for `cold`, which waits for the disk and goes by
the clock. Results are added to `benchmarks/results/streaming.json`.

| word | means |
|---|---|
| views | batches of two views from a window in memory: order, draws, gathers, scaling |
| loader | all that a batch costs before the model: blocks read and verified, windows, views |
| per sample | a `Dataset.__getitem__` with `np.random.choice`, collated by PyTorch, data in memory |
| step | loader, forward of two views and their mix, loss, backward, AdamW |
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from benchmarks.cold_reads import measure_cold
from benchmarks.corpora import made_up, settings, write_blocks
from benchmarks.measuring import NORMALISATION, RESULTS, cpu_seconds, machine, show
from benchmarks.per_sample import per_sample_loader
from benchmarks.streaming_memory import measure_memory
from models.architecture import TeacherConfig
from models.dpixel import DPixels
from models.pools import scales
from tasks.pretrain import TeacherObjective
from tasks.settings.training import PretrainParams
from tasks.streaming.corpus import open_corpus
from tasks.streaming.stream import Stream, open_stream
from tasks.streaming.windows import Source
from tasks.training.inputs import view_inputs
from tasks.training.launch import Job
from tasks.training.objective import Batch

ROUNDS = 7
ENCODERS = {
    "1M": TeacherConfig(latent=32, layers=2, heads=4, feedforward=256, repr_dim=128),
    "0.04M": TeacherConfig(latent=6, layers=2, heads=4, feedforward=24, repr_dim=64),
}


def open_at(folder: Path, work: Path, params: PretrainParams) -> Stream:
    """Open a stream of one process."""
    source = Source(open_corpus(str(folder), "dpixels"))
    return open_stream(source, params, 0, 1, work / "skipped.jsonl")


def two_views(stream: Stream, step: int, length: int) -> None:
    """Load a batch as pretraining does."""
    parts = stream.parts(step)
    for view in (0, 1):
        view_inputs(
            *(parts, view, length, scales(NORMALISATION)), dropout=0.05, device=torch.device("cpu")
        )


def measure_views(work: Path, batch: int = 2048) -> dict[str, Any]:
    """Compare batches of two views of both sensors: from memory, and with reading included."""
    block = made_up(1024, 1)
    write_blocks(work / "views", block, 40, shard_blocks=20)
    whole = DPixels.concatenate([block] * 40)
    found: dict[str, Any] = {"batch": batch, "observations": observations(block)}
    for length in (16, 8):
        rates = rates_of_views(work, whole, length, batch)
        times = {name: rates[name] / rates["per_sample"] for name in ("views", "loader")}
        found[f"L={length}"] = {"dpixels_per_cpu_s": rates, "times_per_sample": times}
    show("views", found)
    return found


def rates_of_views(work: Path, whole: DPixels, length: int, batch: int) -> dict[str, float]:
    """Return d-pixels per CPU second: views from a window in memory, the loader, per sample."""
    seconds: dict[str, list[float]] = {"views": [], "loader": [], "per_sample": []}
    usual, steps = iter(per_sample_loader(whole, length, NORMALISATION, batch)), len(whole) // batch
    for seed in range(ROUNDS):
        # All blocks but the loose ones make one window: it is in memory after its first batch.
        wide = {"lanes": 8, "window_blocks": 4, "on_damage": "stop", "max_damaged_share": 0.0}
        wide["held_out_blocks"] = 0
        # It is also the last one, so that nothing is read ahead meanwhile.
        params = settings(batch_size=batch, stream=wide, seed=seed, steps=steps)
        stream = open_at(work / "views", work, params)
        stream.parts(4)
        views = cpu_seconds(partial(several, stream, range(5, 20), length)) / 15
        stream.close()
        loader = cpu_seconds(partial(epoch, work, settings(batch_size=batch, steps=steps), length))
        per_sample = cpu_seconds(partial(next, usual))
        for name, taken in zip(seconds, (views, loader / steps, per_sample), strict=True):
            seconds[name].append(taken)
    return {name: batch / statistics.median(taken) for name, taken in seconds.items()}


def several(stream: Stream, steps: range, length: int) -> None:
    """Load some batches."""
    for step in steps:
        two_views(stream, step, length)


def epoch(work: Path, params: PretrainParams, length: int) -> None:
    """Go through an epoch, reading and verifying included."""
    stream = open_at(work / "views", work, params)
    several(stream, range(params.steps), length)
    stream.close()


def observations(block: DPixels) -> dict[str, float]:
    """Return the mean number of observations a sensor."""
    return {"s2": float(block.s2.counts.mean()), "s1": float(block.s1_counts.mean())}


def measure_share(work: Path, batch: int = 1024) -> dict[str, Any]:
    """Take the loader's share of a real training step, by size of the encoder and length."""
    write_blocks(work / "share", made_up(1024, 2), 24, shard_blocks=12)
    found: dict[str, Any] = {"batch": batch}
    for name, config in ENCODERS.items():
        params = settings(batch_size=batch, steps=200, architecture=config)
        objective = TeacherObjective(
            Job("pretrain", {}, {"pack": str(work / "share")}, str(work)), params
        )
        rows: dict[str, Any] = {
            "parameters": sum(p.numel() for p in objective.encoder.parameters())
        }
        stream = open_stream(objective.source, params, 0, 1, work / "skipped.jsonl")
        optimizer = torch.optim.AdamW(objective.module.parameters(), lr=1e-4)
        for length in (16, 8):
            rows[f"L={length}"] = share_of_step(stream, objective, optimizer, length)
        stream.close()
        found[name] = rows
        show(f"share {name}", rows)
    return found


def share_of_step(
    stream: Stream, objective: TeacherObjective, optimizer: torch.optim.Optimizer, length: int
) -> dict[str, float]:
    """Time whole steps, and beside each the loading of the following batch."""
    loads, steps = [], []
    for turn in range(ROUNDS + 1):
        loads.append(cpu_seconds(partial(two_views, stream, 2 * turn, length)))
        train = partial(train_step, stream, objective, optimizer, 2 * turn + 1, length)
        steps.append(cpu_seconds(train))
    load, step = (statistics.median(times[1:]) for times in (loads, steps))
    return {"loader_ms": load * 1e3, "step_ms": step * 1e3, "share": load / step}


def train_step(
    stream: Stream,
    objective: TeacherObjective,
    optimizer: torch.optim.Optimizer,
    step: int,
    length: int,
) -> None:
    """Do what a step of pretraining does, loading included."""
    work = objective.work(objective.module, Batch(step, stream.parts(step), length))
    optimizer.zero_grad()
    for term in work.terms:
        term.backward()  # type: ignore[no-untyped-call] # torch does not say its type
    optimizer.step()


def measure_cold_reads(work: Path) -> dict[str, Any]:
    """Compare cold reads of a corpus of about 1.2 GB."""
    folder = work / "cold"
    write_blocks(folder, made_up(2048, 3), 480, shard_blocks=96)
    found = measure_cold(folder, work)
    show("cold", found)
    return found


def measure_digest(work: Path) -> dict[str, Any]:
    """Take the digests' share of the loader, and of reading blocks alone."""
    write_blocks(work / "views", made_up(1024, 1), 40, shard_blocks=20)
    corpus = open_corpus(str(work / "views"), "dpixels")
    contents = [(work / "views" / shard.name).read_bytes() for shard in corpus.index.shards]
    size, rows, times = sum(map(len, contents)), len(corpus), dict[str, list[float]]()
    steps = rows // 2048
    parts: dict[str, Callable[[], Any]] = {
        "digest": lambda: [sha256(content).digest() for content in contents],
        "read": lambda: [corpus.dpixels(number) for number in range(corpus.num_blocks)],
        "L=16": lambda: epoch(work, settings(batch_size=2048, steps=steps), 16),
        "L=8": lambda: epoch(work, settings(batch_size=2048, steps=steps), 8),
    }
    for _ in range(ROUNDS):
        for name, work_on in parts.items():
            times.setdefault(name, []).append(cpu_seconds(work_on))
    taken = {name: statistics.median(values) for name, values in times.items()}
    found = {
        "gb_per_cpu_s": size / taken["digest"] / 1e9,
        "share_of_loader": {name: taken["digest"] / taken[name] for name in ("L=16", "L=8")},
        "share_of_reading_blocks": taken["digest"] / taken["read"],
        "us_per_dpixel": taken["digest"] / rows * 1e6,
    }
    show("digest", found)
    return found


def main() -> None:
    """Measure and keep what was asked for."""
    parts = {
        "views": measure_views,
        "share": measure_share,
        "cold": measure_cold_reads,
        "memory": measure_memory,
        "digest": measure_digest,
    }
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--only", choices=parts, help="one part")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / "streaming.json"
    found = json.loads(target.read_text()) if target.exists() else {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder:
        for part in [only] if only else parts:
            found[part] = parts[part](Path(folder)) | {"machine": machine()}
            target.write_text(json.dumps(found, indent=1) + "\n")
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
