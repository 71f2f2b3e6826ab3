"""A small teacher with its projector, two views of a few rows, and the objective as a textbook has it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from models.architecture import TeacherConfig
from models.initialisation import initialise
from models.pretraining import Pair, TeacherWithProjector, split_pair
from models.replay import replay
from models.stages import whole
from models.teacher import Projector

ALPHA = 0.3
WEIGHT = 5e-3


def make_model(
    *, layers: int = 3, mixup: float = 1.0, prefixes: tuple[int, ...] = (), width: int = 12
) -> TeacherWithProjector:
    """A model in float64 whose gradient is far from zero in every part."""
    model = TeacherWithProjector(
        TeacherConfig(latent=4, layers=1, heads=2, feedforward=16, repr_dim=24),
        projector=(width, layers),
        off_diagonal_weight=WEIGHT,
        mixup_weight=mixup,
        prefixes=prefixes,
    )
    initialise(model, seed=1)
    return model.double()


def make_pair(rows: int = 20, length: int = 4) -> Pair:
    """Two views of `rows` d-pixels, in float64."""
    generator = torch.Generator().manual_seed(3)

    def draw() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        s2, s1 = (
            torch.randn(rows, length, bands, generator=generator, dtype=torch.float64)
            for bands in (10, 2)
        )
        days = [365 * torch.rand(rows, length, generator=generator).double() for _ in range(2)]
        return s2, days[0], s1, days[1]

    return draw(), draw()


def assert_equal(found: Any, expected: Any, *, to: float = 1e-12) -> None:
    """Hold tensors, or lists of them, against each other, in float64."""
    torch.testing.assert_close(found, expected, atol=to, rtol=to)


def in_float32(pair: Pair) -> Pair:
    """The same views with fewer digits."""
    first, second = (tuple(part.float() for part in view) for view in pair)
    return first, second  # type: ignore[return-value]  # four parts each


def rows_of(pair: Pair, start: int, stop: int) -> Pair:
    """Some rows of both views."""
    first, second = (tuple(part[start:stop] for part in view) for view in pair)
    return first, second  # type: ignore[return-value]  # four parts each


def single_pass(model: nn.Module, pair: Pair) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradient of all parameters, in one pass."""
    loss = model(pair, whole, alpha=ALPHA).loss
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def replayed(model: nn.Module, pair: Pair, micro_batch: int) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradient of all parameters, by micro-batches."""
    result, _, terms = replay(partial(model, alpha=ALPHA), split_pair(pair, micro_batch))
    parameters = list(model.parameters())
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    for term in terms:
        parts = torch.autograd.grad(term, parameters)
        gradients = [total + part for total, part in zip(gradients, parts, strict=True)]
    return result.loss.detach(), gradients


def textbook(model: TeacherWithProjector, pair: Pair, partners: Sequence[int]) -> Tensor:
    """The loss with PyTorch's batch norm, and with six correlations for the mix-up term."""
    view_a, view_b = pair
    order = torch.tensor(partners)
    mixed = [ALPHA * a + (1 - ALPHA) * b[order] for a, b in zip(view_a, view_b, strict=True)]
    a, b, m = (model.teacher(*view) for view in (view_a, view_b, mixed))
    za, zb, zm = (_normal(_project(model.projector, e)) for e in (a, b, m))
    loss = _redundancy(_cross(za, zb))
    goal_a = ALPHA * _cross(za, za) + (1 - ALPHA) * _cross(zb[order], za)
    goal_b = ALPHA * _cross(za, zb) + (1 - ALPHA) * _cross(zb[order], zb)
    away = (_cross(zm, za) - goal_a).square().sum() + (_cross(zm, zb) - goal_b).square().sum()
    loss = loss + model.mixup_weight * WEIGHT * away
    for k, head in zip(model.prefixes, model.prefix_projectors, strict=True):
        za, zb = (_normal(_project(head, e[:, :k])) for e in (a, b))
        loss = loss + _redundancy(_cross(za, zb))
    return loss


def _project(projector: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(projector, Projector)
    for layer in projector.net:
        if isinstance(layer, nn.Linear | nn.ReLU):
            x = layer(x)
        else:
            weight, bias = layer.parameters()
            x = F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)
    return x


def _normal(z: Tensor) -> Tensor:
    return (z - z.mean(0)) / torch.sqrt(z.var(0) + 1e-12)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return x.T @ y / len(x)


def _redundancy(c: Tensor) -> Tensor:
    off = c - torch.diag(torch.diag(c))
    return (torch.diag(c) - 1).square().sum() + WEIGHT * off.square().sum()
