"""Losses of a whole batch, written as stages between sums over its rows.

The one idea: batch norm, standardisation and cross-correlation look at other rows through sums
alone. A computation that stops wherever it needs one, and goes on when it is told the total, does
not care how the total came about. With all rows here it is a local sum, on several processes an
all-reduce (`whole`); where the rows do not fit into memory it is many passes over them
(`models.replay`). The mathematics is written once.

Such a computation is a generator: it yields a list of sums, is sent their totals over the global
batch, and returns its result. What is differentiated in it depends on rows through the totals alone.

It deliberately holds no formula of an objective: those are in `models.losses`.

Axis words: `b` rows, `d` features, `...` views or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from models.collective import all_reduce_sum

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

T = TypeVar("T")


class RowSum(Protocol):
    """A sum over rows that is not computed yet."""

    def value(self) -> Tensor:
        """Return the sum over the rows at hand."""
        ...

    def against(self, slope: Tensor) -> Tensor:
        """Return the scalar product of `value()` with `slope`, where only that is needed."""
        ...


Staged = Generator[list[RowSum], list[Tensor], T]
"""A computation in stages, with its result."""


@dataclass(frozen=True, slots=True)
class ColumnSums:
    """Sum and sum of squares of each column, and the number of rows.

    In float64: a variance is a small difference of large sums, and the slope of one is too.
    """

    x: Float[Tensor, "... b d"]

    def value(self) -> Float64[Tensor, "3 ... d"]:
        """Return sums, sums of squares, and counts."""
        sums: Tensor = _ColumnSums.apply(self.x)  # type: ignore[no-untyped-call]  # torch has no types
        return sums

    def against(self, slope: Float64[Tensor, "3 ... d"]) -> Float64[Tensor, ""]:
        """Return the scalar product of `value()` with `slope`."""
        return (self.value() * slope).sum()


@dataclass(frozen=True, slots=True)
class Products:
    """The matrix x' y of products of columns."""

    x: Float[Tensor, "b d"]
    y: Float[Tensor, "b d"]

    def value(self) -> Float[Tensor, "d d"]:
        """Return x' y, in the precision of x whatever autocast says."""
        with torch.autocast(self.x.device.type, enabled=False):
            return self.x.T @ self.y

    def against(self, slope: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
        """Return the scalar product of `value()` with `slope`, by two matrix products, not three."""
        with torch.autocast(self.x.device.type, enabled=False):
            return (self.x @ slope * self.y).sum()


def statistics(
    x: Float[Tensor, "... b d"],
) -> Staged[
    tuple[Float64[Tensor, "... 1 d"], Float64[Tensor, "... 1 d"], Float64[Tensor, "... 1 d"]]
]:
    """Return mean and (biased) variance of each column over the global batch, and its rows."""
    (total,) = yield [ColumnSums(x)]
    sums, squares, count = total.unsqueeze(-2)
    mean = sums / count
    # A constant column may come out at minus a rounding error.
    return mean, (squares / count - mean.square()).clamp_min(0.0), count


def together(parts: Sequence[Staged[T]]) -> Staged[list[T]]:
    """Go through several computations side by side, stage by stage, with one exchange a stage."""
    results: dict[int, T] = {}
    answers: list[list[Tensor] | None] = [None] * len(parts)
    while True:
        wanted: dict[int, list[RowSum]] = {}
        for index, part in enumerate(parts):
            if index not in results:
                try:
                    wanted[index] = part.send(answers[index])  # type: ignore[arg-type]  # None starts it
                except StopIteration as end:
                    results[index] = end.value
        if not wanted:
            return [results[index] for index in range(len(parts))]
        totals = iter((yield [row_sum for sums in wanted.values() for row_sum in sums]))
        for index, sums in wanted.items():
            answers[index] = [next(totals) for _ in sums]


def whole(staged: Staged[T]) -> T:
    """Run a computation on the rows at hand and those of all other processes.

    Each stage is one all-reduce that gradients pass through; every process must take part.
    """
    return _carried_out(staged, _total)


def alone(staged: Staged[T]) -> T:
    """Run a computation on the rows at hand only, whatever other processes there are."""
    return _carried_out(staged, list)


def _carried_out(staged: Staged[T], total: Callable[[list[Tensor]], list[Tensor]]) -> T:
    totals: list[Tensor] | None = None
    while True:
        try:
            wanted = staged.send(totals)  # type: ignore[arg-type]  # None starts it
        except StopIteration as end:
            result: T = end.value
            return result
        totals = total([row_sum.value() for row_sum in wanted])


def _total(sums: list[Tensor]) -> list[Tensor]:
    flat = all_reduce_sum(torch.cat([values.reshape(-1) for values in sums]))
    parts = torch.split(flat, [values.numel() for values in sums])
    return [part.view_as(values) for part, values in zip(parts, sums, strict=True)]


class _ColumnSums(torch.autograd.Function):
    """Column sums in float64 that keep x as it is for the backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        wide = x.detach().double()
        sums = wide.sum(-2)
        return torch.stack((sums, wide.square().sum(-2), torch.full_like(sums, x.shape[-2])))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]  # torch has no types
        sums, squares, _ = slope.unsqueeze(-2)
        grad: Tensor = torch.addcmul(sums, x.double(), squares, value=2.0).to(x.dtype)
        return grad
