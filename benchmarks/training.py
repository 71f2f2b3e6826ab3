"""Measure training: a step against the machine's peak and the usual loop, two processes, targets.

    python -m benchmarks.training                    everything, about half an hour
    python -m benchmarks.training --only step        one part: step, processes, targets

CPU time of one thread, taken in turn in one process, medians; `processes` goes by the clock and
needs an idle machine. Results are added to `benchmarks/results/training.json`.

| word | means |
|---|---|
| ours | a step of `tessera` pretraining: streaming, both views and their mix, DeepSpeed ZeRO-1 |
| bare | the same objective and data, PyTorch's AdamW instead of DeepSpeed |
| plain | the usual loop of `benchmarks/plain_loop.py`: DDP, per-sample loader, the same losses |
| useful | operations of encoder, projector and loss (`models/training_cost.py`), nothing twice |
| peak | a 2048^3 float32 matrix product on one thread, measured in the same run |
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.corpora import ZERO_1, made_up, settings, write_blocks
from benchmarks.measuring import NORMALISATION, RESULTS, cpu_seconds, gemm_peak, machine, show
from benchmarks.per_sample import per_sample_loader
from benchmarks.plain_loop import PlainLoop
from benchmarks.target_cost import measure_targets
from benchmarks.two_processes import measure_processes
from models.architecture import TeacherConfig
from models.training_cost import pretraining_cost
from tasks.pretrain import TeacherObjective
from tasks.streaming.stream import Stream, open_stream
from tasks.training.engine import Engine, join_world
from tasks.training.launch import Job
from tasks.training.objective import Batch
from tasks.training.sharding import read_sharding

ENCODERS = {
    "N": TeacherConfig(latent=36, layers=2, heads=4, feedforward=384, repr_dim=128),
    "S": TeacherConfig(latent=64, layers=4, heads=4, feedforward=1024, repr_dim=128),
}
"""Teachers with the branches of the students N and S."""
BATCHES = {"N": 1024, "S": 512}
MICRO_BATCHES = {"N": 128, "S": 64}
LENGTH, WIDTH, ROUNDS = 16, 1024, 5


def measure_step(work: Path) -> dict[str, Any]:
    """Compare a step with the peak of the machine, and with the usual loop."""
    found: dict[str, Any] = {"view_length": LENGTH, "projector_width": WIDTH}
    for size, config in ENCODERS.items():
        found[size] = compare_loops(work, size, config)
        show(f"step {size}", found[size])
    return found


def compare_loops(work: Path, size: str, config: TeacherConfig) -> dict[str, Any]:
    """Time our step, the bare one and the plain one in turn."""
    rows, block = BATCHES[size], made_up(1024, 1)
    folder = work / f"corpus-{size}"
    write_blocks(folder, block, 24, shard_blocks=12)
    params = settings(
        architecture=config,
        projector={"width": WIDTH, "layers": 3},
        batch_size=rows,
        view_lengths=[LENGTH],
        steps=200,
        micro_batch=MICRO_BATCHES[size],
    )
    join_world()
    job = Job("pretrain", {}, {"pack": str(folder)}, str(work))
    bare, ours = TeacherObjective(job, params), TeacherObjective(job, params)
    engine = Engine(ours.module, params, read_sharding(ZERO_1), ours.backward_passes)
    engine.module.train()
    stream = open_stream(bare.source, params, 0, 1, work / "skipped.jsonl")
    optimizer = torch.optim.AdamW(bare.module.parameters(), lr=1e-4, weight_decay=1e-6)
    loader = per_sample_loader(block, LENGTH, NORMALISATION, rows)
    loops: dict[str, Callable[[int], None]] = {
        "ours": partial(our_step, stream, ours, engine),
        "bare": partial(bare_step, stream, bare, optimizer),
        "plain": partial(plain_step, PlainLoop(config, WIDTH, loader)),
    }
    times, peaks = time_in_turn(loops)
    stream.close()
    engine.close()
    cost = pretraining_cost(config, (WIDTH, 3), rows, LENGTH, mixup=True)
    useful, peak = cost.flops, statistics.median(peaks)
    return {
        "parameters": sum(p.numel() for p in ours.encoder.parameters()),
        "batch": rows,
        "micro_batch": MICRO_BATCHES[size],
        "useful_gflop": useful / 1e9,
        "peak_gflops": peak / 1e9,
        "seconds": times,
        "share_of_peak": useful / times["ours"] / peak,
        "plain_share_of_peak": useful / times["plain"] / peak,
        "times_plain": times["plain"] / times["ours"],
        "deepspeed_overhead_over_bare": times["ours"] / times["bare"] - 1,
        "deepspeed_overhead_over_plain": times["ours"] / times["plain"] - 1,
    }


def time_in_turn(loops: dict[str, Callable[[int], None]]) -> tuple[dict[str, float], list[float]]:
    """Return the median CPU seconds of a step of each loop, and the peaks measured meanwhile."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    peaks: list[float] = []
    for turn in range(ROUNDS + 1):
        peaks.append(gemm_peak())
        for name, step in loops.items():
            seconds[name].append(cpu_seconds(partial(step, turn + 1)))
    # The first turn warms up: buffers, the reader of the next window, the loader's iterator.
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}, peaks[1:]


def our_step(stream: Stream, objective: TeacherObjective, engine: Engine, step: int) -> None:
    """Do a step of the product's trainer, without its records."""
    work = objective.work(engine.module, Batch(step, stream.parts(step), LENGTH))
    for term in work.terms:
        engine.backward(term)
    engine.step(1e-4, lambda _norm: True)


def bare_step(
    stream: Stream, objective: TeacherObjective, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Do the same without DeepSpeed."""
    work = objective.work(objective.module, Batch(step, stream.parts(step), LENGTH))
    optimizer.zero_grad()
    for term in work.terms:
        term.backward()  # type: ignore[no-untyped-call] # torch does not say its type
    torch.nn.utils.clip_grad_norm_(objective.module.parameters(), 2.0)
    optimizer.step()


def plain_step(loop: PlainLoop, _step: int) -> None:
    """Do a step of the usual loop."""
    loop.step()


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "step": measure_step,
    "processes": measure_processes,
    "targets": measure_targets,
}


def main() -> None:
    """Measure what is asked and add it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    chosen = parser.parse_args().only
    torch.set_num_threads(1)
    path = RESULTS / "training.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [chosen] if chosen else PARTS:
            results[name] = PARTS[name](Path(folder)) | {"measured": machine()}
            path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
