"""The training loop that teacher and students share.

What is trained is an ``Objective``; how, is here: the batches, the schedule, checkpoints, resuming
and the record of losses. Everything random is a pure function of (seed, step, row), so a run that
was killed at any step goes on to the same bytes, and the rows of a step do not depend on how many
processes share them. Beside weights and optimiser, the state of a run is its step.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.hashing import hash_u64
from tasks.errors import DataError
from tasks.params import TrainingParams
from tasks.progress import track
from tasks.streaming.stream import open_stream
from tasks.training.checkpoints import load_checkpoint, save_checkpoint
from tasks.training.engine import Engine, join_world
from tasks.training.objective import Batch, Objective
from tasks.training.records import Recorder

_LENGTH = 0x4C454E47  # keeps the draw of the view length apart from those of the order


def train(
    objective: Objective, params: TrainingParams, work: Path, recorder: Recorder
) -> dict[str, Tensor]:
    """Train to the last step, resuming from what ``work`` holds.

    Args:
        objective: What is trained.
        params: Steps, batch, schedule, seed.
        work: Folder of this run's checkpoints and records.
        recorder: Takes every step's numbers on process 0.

    Returns:
        The encoder's weights, whole on every process.

    Raises:
        DataError: The loss is not finite, a batch needs more rows than there are, or the corpus is
            damaged.
    """
    torch.set_num_threads(params.execution.threads)
    torch.use_deterministic_algorithms(mode=True)
    # Filling fresh memory costs as much as the step, and nothing reads it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # untyped module property
    rank, world = join_world()
    stream = open_stream(objective.source, params, rank, world, work / f"skipped-{rank}.jsonl")
    engine = Engine(objective.module, params, world, objective.backward_passes)
    first = load_checkpoint(engine, work / "checkpoints")
    stream.rewind(first)
    if rank == 0:
        recorder.rewind(first)
    engine.module.train()
    steps = range(first, params.steps)
    try:
        for step in track(steps, label="train", total=params.steps, start=first, unit="steps"):
            batch = Batch(step, stream.parts(step), _view_length(step, params))
            record = _train_step(engine, objective, batch, params, rank)
            if rank == 0:
                recorder.add(record)
            done = step + 1
            if done % params.execution.checkpoint_every == 0 or done == params.steps:
                save_checkpoint(engine, work / "checkpoints", done, rank)
    finally:
        stream.close()
    weights = engine.weights(objective.encoder)
    engine.close()
    return weights


def _train_step(
    engine: Engine, objective: Objective, batch: Batch, params: TrainingParams, rank: int
) -> dict[str, float]:
    """Move the weights once; return what is recorded of it."""
    # Dropout draws from this generator alone: its state need not be saved.
    torch.manual_seed(int(hash_u64(params.seed, batch.step, rank) >> np.uint64(1)))
    work = objective.work(engine.module, batch)
    _require_finite(work.loss, batch.step, rank)
    rate = learning_rate(batch.step, params)
    for term in work.terms:
        engine.backward(term)
    engine.step(rate)
    record = {"step": batch.step, "loss": float(work.loss), **work.numbers, "rate": rate}
    norm = engine.gradient_norm()
    return record if norm is None else record | {"gradient_norm": norm}


def learning_rate(step: int, params: TrainingParams) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(params.warmup_share * params.steps))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    along = (step - warmup) / max(1, params.steps - warmup)
    return params.learning_rate * 0.5 * (1.0 + math.cos(math.pi * along))


def _view_length(step: int, params: TrainingParams) -> int:
    """Draw the length of the step's views; it is the same on every process."""
    lengths = params.view_lengths
    return int(lengths[int(hash_u64(params.seed, _LENGTH, step) % np.uint64(len(lengths)))])


def _require_finite(loss: Tensor, step: int, rank: int) -> None:
    if not torch.isfinite(loss):
        raise DataError(
            "a finite loss",
            found=str(float(loss)),
            where=f"step {step}, process {rank}",
            mend="Lower learning_rate, or look for corrupt d-pixels: tessera's validate stage.",
        )
