"""Objectives for tests of the training loop: the real teacher, and a small one with planted faults."""

import os
import random
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.collective import all_reduce_sum, world_size
from models.training_cost import StepCost
from tasks.pretrain import TeacherObjective
from tasks.settings.training import PretrainParams
from tasks.streaming.corpus import open_corpus
from tasks.streaming.stream import open_stream
from tasks.streaming.windows import Source
from tasks.training.launch import Job
from tasks.training.objective import Batch, Work
from tasks.training.trainer import learning_rate


def teacher(corpus: Path, params: PretrainParams) -> TeacherObjective:
    """Make the objective of the stage ``pretrain``."""
    return TeacherObjective(Job("pretrain", {}, {"pack": str(corpus)}, ""), params)


@dataclass(frozen=True)
class Planted:
    """Makes a small objective whose loss or gradient is spoilt at some batches."""

    losses: Mapping[int, float] = field(default_factory=dict)
    """What the loss is said to be at a batch."""
    factors: Mapping[int, float] = field(default_factory=dict)
    """What the gradient is multiplied by at a batch."""
    draws: bool = False
    """Whether noise of the global generators goes into the loss."""
    passes: int = 1
    """Terms of a step."""
    stop_at: int = -1
    """Batch at which the process is asked to end."""
    missing: int = 0
    """Terms that are announced and do not come."""

    def __call__(self, corpus: Path, params: PretrainParams) -> "Small":
        """Make it."""
        return Small(corpus, params, self)


class Small:
    """Regression of a row's number by a small network: exact, fast, and dependent on every row."""

    def __init__(self, corpus: Path, params: PretrainParams, planted: Planted) -> None:
        self.params, self.planted = params, planted
        self.source = Source(open_corpus(str(corpus), "dpixels"))
        torch.manual_seed(0)
        self.encoder: nn.Module = nn.Sequential(
            nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3)
        )
        self.module: nn.Module = self.encoder

    @property
    def backward_passes(self) -> int:
        """As planted."""
        return self.planted.passes

    def work(self, module: nn.Module, batch: Batch) -> Work:
        """Return the mean square, whole or in terms."""
        if batch.step == self.planted.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        rows = np.concatenate([part.rows for part in batch.parts])
        angles = torch.from_numpy(rows).float()[:, None] * torch.arange(1, 9)
        noise = torch.tensor(0.0)
        if self.planted.draws:
            noise = torch.randn(1)[0] + float(np.random.rand()) + random.random()
        factor = self.planted.factors.get(batch.step, 1.0)

        def errors(part: Tensor) -> Tensor:
            found = module(torch.sin(part / 7.0))
            squares: Tensor = (found - torch.cos(part[:, :3]) - 0.1 * noise).square().mean(1)
            return squares

        pieces = angles.chunk(self.planted.passes)
        with torch.no_grad():
            mean = torch.cat([errors(piece) for piece in pieces]).mean()
        loss = all_reduce_sum(mean) / world_size()
        said = self.planted.losses.get(batch.step, float(loss))
        terms = (
            errors(piece).sum() / len(rows) * factor for piece in pieces[self.planted.missing :]
        )
        cost = StepCost(len(rows), 0, 0, 0, 0)
        return Work(torch.tensor(said), {"rows": _which(rows)}, terms, cost)

    def assess(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Score by the size of the weights."""
        return {"probe": float(sum(t.abs().sum() for t in weights.values()))}


def _which(rows: np.ndarray) -> float:
    """Return a number that tells which rows all processes together have."""
    return float(all_reduce_sum(torch.from_numpy((rows + 1.0) ** 2).sum()))


def plain_loop(
    corpus: Path, params: PretrainParams, batches: Sequence[int | None]
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Train the small objective by PyTorch alone.

    Args:
        corpus: Folder of the shards.
        params: Settings.
        batches: Of each step; ``None`` where a step is skipped.

    Returns:
        Losses of the steps that are taken, and the weights in the end.
    """
    objective = Small(corpus, params, Planted())
    steps = params.model_copy(update={"steps": 99})
    stream = open_stream(objective.source, steps, 0, 1, corpus / "skipped.jsonl")
    weights = list(objective.module.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": params.weight_decay},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=params.betas,
    )
    losses = []
    for step, batch in enumerate(batches):
        if batch is None:
            continue
        work = objective.work(objective.module, Batch(batch, stream.parts(batch), 8))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, params)
        optimiser.zero_grad()
        next(work.terms).backward()  # type: ignore[no-untyped-call]  # torch has no types
        torch.nn.utils.clip_grad_norm_(weights, params.clip_norm)
        optimiser.step()
        losses.append(float(work.loss))
    stream.close()
    return losses, {name: p.detach().numpy() for name, p in objective.module.named_parameters()}
