"""Compare one and two processes by the clock, each with one thread: the machine must be idle.

The same training is run by `torchrun` both times, so the global batch, and what it computes, are the
same; two processes share its rows. A step is timed from its first forward to its last weight.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.corpora import REPOSITORY, ZERO_1, made_up, settings, write_blocks
from benchmarks.measuring import show
from models.architecture import TeacherConfig
from tasks.pretrain import TeacherObjective
from tasks.streaming.stream import open_stream
from tasks.training.engine import Engine, join_world
from tasks.training.launch import Job
from tasks.training.objective import Batch
from tasks.training.sharding import read_sharding

ENCODER = TeacherConfig(latent=36, layers=2, heads=4, feedforward=384, repr_dim=128)
ROWS, LENGTH, WIDTH, STEPS, ROUNDS = 1024, 16, 1024, 4, 3


def measure_processes(work: Path) -> dict[str, Any]:
    """Return the ratio of the clock times of a step, the best round of each."""
    write_blocks(work / "pair", made_up(1024, 1), 24, shard_blocks=12)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for processes, taken in seconds.items():
            taken.append(run(work, processes))
    one, two = (min(taken) for taken in seconds.values())
    found = {"one_s": one, "two_s": two, "two_over_one": one / two, "load": os.getloadavg()[0]}
    show("processes", found)
    return found


def run(work: Path, processes: int) -> float:
    """Start so many processes and return the median clock time of their steps."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={processes}", "--module", "benchmarks.two_processes", str(work)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=REPOSITORY, env=environment, capture_output=True)
    return float(json.loads((work / "pair-seconds.json").read_text()))


def be_one_process(work: Path) -> None:
    """Train a few steps as one of the processes; process 0 writes the time of a step."""
    torch.set_num_threads(1)
    rank, world = join_world()
    params = settings(
        architecture=ENCODER,
        projector={"width": WIDTH, "layers": 3},
        batch_size=ROWS,
        view_lengths=[LENGTH],
        micro_batch=128,
    )
    objective = TeacherObjective(
        Job("pretrain", {}, {"pack": str(work / "pair")}, str(work)), params
    )
    engine = Engine(objective.module, params, read_sharding(ZERO_1), objective.backward_passes)
    stream = open_stream(objective.source, params, rank, world, work / f"skipped-{rank}.jsonl")
    taken = []
    for step in range(STEPS + 1):
        dist.barrier()
        started = time.perf_counter()
        task = objective.work(engine.module, Batch(step, stream.parts(step), LENGTH))
        for term in task.terms:
            engine.backward(term)
        engine.step(1e-4, lambda _norm: True)
        dist.barrier()
        taken.append(time.perf_counter() - started)
    stream.close()
    if rank == 0:
        (work / "pair-seconds.json").write_text(json.dumps(statistics.median(taken[1:])))


if __name__ == "__main__":
    be_one_process(Path(sys.argv[1]))
