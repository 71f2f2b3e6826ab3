"""The usual training loop: distributed data parallel, a per-sample loader, PyTorch's own layers.

Written as one would for Barlow Twins on pixel time series, without wasting anything: whole views go
through the encoder, the projector has the library's batch norm, the loss is the textbook's with the
mix-up term of the same recipe. It is right on one process only; that is why ours is another.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from benchmarks.per_sample import Sample
from models.architecture import TeacherConfig
from models.teacher import Teacher

View = tuple[Tensor, ...]
_NAMES = ("s2", "s2_doy", "s1", "s1_doy")


class PlainModel(nn.Module):
    """Encoder and projector; returns the projections of the two views and of their mix."""

    def __init__(self, config: TeacherConfig, width: int) -> None:
        super().__init__()
        self.encoder = Teacher(config)
        self.projector = nn.Sequential(
            *(nn.Linear(config.repr_dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
            nn.Linear(width, width, bias=False),
        )

    def forward(self, views: list[View]) -> list[Tensor]:
        """Return the projections of each view."""
        return [self.projector(self.encoder(*view)) for view in views]


def plain_loss(za: Tensor, zb: Tensor, zm: Tensor, other: Tensor, alpha: float) -> Tensor:
    """Barlow Twins with mix-up, weights as in the repository's settings."""
    weight, rows = 0.005, len(za)
    a, b, m = ((z - z.mean(0)) / z.std(0) for z in (za, zb, zm))
    correlation = a.T @ b / rows
    diagonal = correlation.diagonal()
    loss = (diagonal - 1).square().sum()
    loss = loss + weight * (correlation.square().sum() - diagonal.square().sum())
    mixed = b[other]
    against_a = m.T @ a / rows - alpha * (a.T @ a) / rows - (1 - alpha) * (mixed.T @ a) / rows
    against_b = m.T @ b / rows - alpha * (a.T @ b) / rows - (1 - alpha) * (mixed.T @ b) / rows
    return loss + weight * (against_a.square().sum() + against_b.square().sum())


class PlainLoop:
    """One step after the other; the process group of this process must exist."""

    def __init__(self, config: TeacherConfig, width: int, loader: DataLoader[Sample]) -> None:
        self._model = DistributedDataParallel(PlainModel(config, width))
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, weight_decay=1e-6)
        self._loader, self._batches = loader, self._endless(loader)

    def step(self) -> None:
        """Load a batch and move the weights once."""
        batch = next(self._batches)
        a, b = (tuple(batch[f"{name}_{view}"] for name in _NAMES) for view in "ab")
        alpha, other = float(torch.rand(())), torch.randperm(len(a[0]))
        mixed = tuple(alpha * x + (1 - alpha) * y[other] for x, y in zip(a, b, strict=True))
        za, zb, zm = self._model([a, b, mixed])
        loss = plain_loss(za, zb, zm, other, alpha)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch does not say its type
        nn.utils.clip_grad_norm_(self._model.parameters(), 2.0)
        self._optimizer.step()

    @staticmethod
    def _endless(loader: DataLoader[Sample]) -> Iterator[Sample]:
        while True:
            yield from loader
