"""The training loop that teacher and students share.

What is trained is an ``Objective``; how, is here: the order of rows, the schedule, checkpoints,
resuming and the record of losses. Everything random is a pure function of (seed, step, row), so a
run that was killed at any step goes on to the same bytes, and the rows of a step do not depend on
how many processes share them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.hashing import hash_u64
from tasks.errors import DataError
from tasks.params import TrainingParams
from tasks.progress import track
from tasks.training.checkpoints import load_checkpoint, save_checkpoint
from tasks.training.engine import Engine, join_world
from tasks.training.records import Recorder

_EPOCH, _LENGTH = 0x45504F43, 0x4C454E47  # parts that keep the two draws independent


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step that this process works on."""

    step: int
    rows: npt.NDArray[np.int64]
    """Global row numbers in the shards."""
    seeds: npt.NDArray[np.uint64]
    """One seed for each row, drawn from (seed, position in the whole run)."""
    view_length: int
    """Observations a view; equal on every process."""


class Objective(Protocol):
    """What is trained, and how far from right it is."""

    module: nn.Module
    """All trainable parts; only ``encoder`` outlives the training."""
    encoder: nn.Module
    num_rows: int
    """Rows of the corpus."""

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the global loss and numbers to record; ``module`` is the wrapped ``module``."""
        ...


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
        DataError: The loss is not finite, or a batch needs more rows than the corpus has.
    """
    torch.set_num_threads(params.threads)
    torch.use_deterministic_algorithms(mode=True)
    # Filling fresh memory costs as much as the step, and nothing reads it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # untyped module property
    rank, world = join_world()
    _require_rows(objective.num_rows, params.batch_size)
    engine = Engine(objective.module, params, world)
    first = load_checkpoint(engine, work / "checkpoints")
    if rank == 0:
        recorder.rewind(first)
    engine.module.train()
    batches = _batches(objective.num_rows, params, rank, world, first)
    for batch in track(batches, label="train", total=params.steps, start=first, unit="steps"):
        # Dropout draws from this generator alone: its state need not be saved.
        torch.manual_seed(int(hash_u64(params.seed, batch.step, rank) >> np.uint64(1)))
        loss, numbers = objective.loss(engine.module, batch)
        _require_finite(loss, batch.step, rank)
        rate = learning_rate(batch.step, params)
        engine.step(loss, rate)
        norm = engine.gradient_norm()
        record = {"step": batch.step, "loss": float(loss.detach()), **numbers, "rate": rate}
        if rank == 0:
            recorder.add(record if norm is None else record | {"gradient_norm": norm})
        done = batch.step + 1
        if done % params.checkpoint_every == 0 or done == params.steps:
            save_checkpoint(engine, work / "checkpoints", done, rank)
    weights = engine.weights(objective.encoder)
    engine.close()
    return weights


def learning_rate(step: int, params: TrainingParams) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(params.warmup_share * params.steps))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    along = (step - warmup) / max(1, params.steps - warmup)
    return params.learning_rate * 0.5 * (1.0 + math.cos(math.pi * along))


def _batches(
    num_rows: int, params: TrainingParams, rank: int, world: int, first: int
) -> Iterator[Batch]:
    """Yield this process's part of each step from ``first`` on; epochs follow without a seam."""
    share = params.batch_size // world
    for step in range(first, params.steps):
        start = step * params.batch_size + rank * share
        positions = np.arange(start, start + share)
        lengths = params.view_lengths
        length = lengths[int(hash_u64(params.seed, _LENGTH, step) % np.uint64(len(lengths)))]
        rows = _rows_at(positions, num_rows, params.seed)
        yield Batch(step, rows, hash_u64(params.seed, positions), int(length))


def _rows_at(positions: npt.NDArray[np.int64], num_rows: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the rows at these positions of an endless sequence of shuffled epochs."""
    rows = np.empty_like(positions)
    for epoch in np.unique(positions // num_rows):
        within = positions // num_rows == epoch
        order = _order_of_epoch(int(epoch), num_rows, seed)
        rows[within] = order[positions[within] % num_rows]
    return rows


@lru_cache(maxsize=2)  # a batch spans two epochs at most
def _order_of_epoch(epoch: int, num_rows: int, seed: int) -> npt.NDArray[np.int64]:
    return np.argsort(hash_u64(seed, _EPOCH, epoch, np.arange(num_rows)), kind="stable")


def _require_rows(num_rows: int, batch_size: int) -> None:
    if batch_size > num_rows:
        raise DataError(
            f"at least one batch of {batch_size} d-pixels",
            found=f"{num_rows} in the shards",
            where="training",
            mend="Lower batch_size in params.yaml, or pack a larger archive.",
        )


def _require_finite(loss: Tensor, step: int, rank: int) -> None:
    if not torch.isfinite(loss):
        raise DataError(
            "a finite loss",
            found=str(float(loss)),
            where=f"step {step}, process {rank}",
            mend="Lower learning_rate, or look for corrupt d-pixels: tessera's validate stage.",
        )
