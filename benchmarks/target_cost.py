"""What caching targets saves: a distillation step with cached targets, and with the teacher in it.

With S the time of the student's step and T that of the teacher's forward pass over the same rows,
an online step costs S + T and a cached one S, so the ideal gain is (S + T) / S. Reached is what
remains of it when both gather their batches from a window in memory, the targets among them. All
steps lie in one window: reading its blocks ahead is not in them, and takes 0.1 % of such a step.

The cache itself costs T a row once. Over E epochs and K students it is paid back by E * K * T.
"""

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.corpora import REPOSITORY, made_up, write_blocks
from benchmarks.measuring import NORMALISATION, cpu_seconds, show
from models.dpixel import DPixels
from models.encode import Encoder
from models.initialisation import initialise
from models.released import RELEASED_LADDER
from models.student import STUDENTS
from models.teacher import TEACHERS, Teacher
from tasks.distill import StudentObjective
from tasks.params import read_params
from tasks.settings.training import DistillParams
from tasks.shards.index import write_index
from tasks.shards.rows import encode_targets, target_schema
from tasks.shards.writer import ShardWriter
from tasks.streaming.stream import Stream, open_stream
from tasks.training.launch import Job
from tasks.training.objective import Batch

PAIRS = (("N", "small"), ("N", "medium"), ("S", "small"), ("S", "medium"))
ROWS, BLOCK, BLOCKS, LENGTH, ROUNDS = 128, 256, 16, 16, 5
PASSES = (1, 2, 4, 8)
"""Epochs times students."""


def measure_targets(work: Path) -> dict[str, Any]:
    """Return, for two students and two teachers, the gain of caching beside the ideal one."""
    block = made_up(BLOCK, 3)
    write_blocks(work / "cached", block, BLOCKS, shard_blocks=8)
    found: dict[str, Any] = {"rows": ROWS, "view_length": LENGTH}
    for size, teacher in PAIRS:
        found[f"{size} from {teacher}"] = compare(work, block, size, teacher)
        show(f"targets {size} from {teacher}", found[f"{size} from {teacher}"])
    return found


def compare(work: Path, block: DPixels, size: str, teacher: str) -> dict[str, Any]:
    """Time the parts of cached and online distillation in turn."""
    config = TEACHERS[teacher]
    targets = work / f"targets-{teacher}"
    if not targets.exists():
        write_made_up_targets(targets, block, config.repr_dim)
    model = Teacher(config)
    initialise(model, seed=2)
    encoder = Encoder(model, NORMALISATION, RELEASED_LADDER)
    objective, stream = open_student(work, targets, size)
    optimizer = torch.optim.AdamW(objective.module.parameters(), lr=1e-4)
    held = Batch(0, stream.parts(0), LENGTH)
    rows = block.take(np.arange(ROWS))
    train = partial(student_step, objective, optimizer)
    parts = {
        "student": lambda _turn: train(held),
        "teacher": lambda _turn: encoder.encode(rows),
        "cached": lambda turn: train(Batch(turn, stream.parts(turn), LENGTH)),
        "online": lambda turn: (
            encoder.encode(rows),
            train(Batch(turn, stream.parts(turn), LENGTH)),
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(ROUNDS + 1):
        for name, part in parts.items():
            seconds[name].append(cpu_seconds(partial(part, turn + 1)))
    stream.close()
    return gains({name: statistics.median(taken[1:]) for name, taken in seconds.items()})


def gains(seconds: dict[str, float]) -> dict[str, Any]:
    """Return ideal and reached gain, and when the cache is paid back."""
    student, teacher, cached = (seconds[name] for name in ("student", "teacher", "cached"))
    ideal, reached = (student + teacher) / student, seconds["online"] / cached
    return {
        "seconds": seconds,
        "ideal_gain": ideal,
        "gain": reached,
        "share_of_ideal": reached / ideal,
        "online_over_cached_by_passes": {
            str(n): n * seconds["online"] / (teacher + n * cached) for n in PASSES
        },
    }


def open_student(work: Path, targets: Path, size: str) -> tuple[StudentObjective, Stream]:
    """Open a student of the published size on the made-up corpus."""
    section = read_params(REPOSITORY / "params.yaml").distill
    changes = section.complete() | {
        "students": {size: STUDENTS[size]},
        "batch_size": ROWS,
        "steps": 1000,
        "view_lengths": [LENGTH],
    }
    params = DistillParams.model_validate(changes)
    parents = {"pack": str(work / "cached"), "cache_targets": str(targets)}
    objective = StudentObjective(Job(f"distill@{size}", {}, parents, str(work)), params)
    return objective, open_stream(objective.source, params, 0, 1, work / "skipped.jsonl")


def student_step(
    objective: StudentObjective, optimizer: torch.optim.Optimizer, batch: Batch
) -> None:
    """Move the student's weights once."""
    work = objective.work(objective.module, batch)
    optimizer.zero_grad()
    for term in work.terms:
        term.backward()  # type: ignore[no-untyped-call] # torch does not say its type
    optimizer.step()


def write_made_up_targets(folder: Path, block: DPixels, dim: int) -> None:
    """Write random targets of the corpus, of the teacher's width; their values cost nothing less."""
    folder.mkdir()
    schema = target_schema(dim)
    answer = np.random.default_rng(5).standard_normal((BLOCK, dim), dtype=np.float32)
    shards = []
    for number in range(BLOCKS // 8):
        with ShardWriter(folder / f"targets-{number:05d}.arrow", schema) as writer:
            for _ in range(8):
                writer.add(encode_targets(block.pixel_id, answer, schema))
            shards.append((writer.finish(), writer.blocks))
    write_index(folder, "targets", BLOCK, shards, {"dim": dim, "dtype": "float16"})
