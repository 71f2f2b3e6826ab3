"""The gradient of a loss over a whole batch in the memory of one micro-batch.

The one idea: rows enter such a loss through a few sums alone (`models.stages`). So three rounds over
micro-batches compute exactly what one pass over the whole batch does, and keep nothing between them
but embeddings and sums:

1. embeddings of all rows, without a graph;
2. the projector over the embeddings, once for each sum forward, which gives the loss, and once for
   each sum backward, which gives the slope of the loss along it;
3. each micro-batch again with a graph, the totals held constant: the scalar product of its own sums
   with their slopes has, by the chain rule, the gradient of the loss through these rows.

A batch of 131,072 is then the same computation on one small device as on five hundred large ones.
The price is a second forward pass of the encoder, and some passes of the projector, which is small.

It deliberately does not run anything backward in round 3: the scalars are handed out one by one, and
whoever trains differentiates them, by whatever engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from models.collective import all_reduce_sum, world_size
from models.stages import RowSum, Staged

Totals = list[list[Tensor]]
"""One tensor for each sum of each stage."""


class Result(Protocol):
    """What a computation in stages returns."""

    @property
    def loss(self) -> Tensor:
        """The scalar that is differentiated."""
        ...


R = TypeVar("R", bound=Result)

Run = Callable[..., Any]
"""`run(batch)` returns embeddings of a micro-batch; `run(rows, drive)` passes the computation in
stages on them, whether rows are a micro-batch or its embeddings, to `drive` and returns its answer."""


class Replay(NamedTuple):
    """A step whose gradient is still to be taken."""

    result: Any
    """What the computation returns over the global batch, equal on all ranks; of anything that it
    says of single rows, the first micro-batch's."""
    rows: list[Tensor]
    """Embeddings of each micro-batch, without a graph."""
    terms: Iterator[Tensor]
    """One scalar for each micro-batch, made when it is asked for. Their values mean nothing; their
    gradients, summed over micro-batches and averaged over processes, are that of the loss."""


def replay(run: Run, batches: Sequence[Any]) -> Replay:
    """Find the loss over the global batch, and scalars whose gradients add up to the loss's.

    Random numbers that the encoder draws, if any, are the same in both of its passes.

    Args:
        run: the model; its weights must not change before the last scalar is taken.
        batches: this process's micro-batches; every process must have as many.
    """
    states, rows = [], []
    with torch.no_grad():
        for batch in batches:
            states.append(_random_state())
            rows.append(run(batch))
        totals = _totals(run, rows)
    result, slopes = _slopes(run, rows, totals)
    term = partial(_weigh, totals, slopes, 0)

    def terms() -> Iterator[Tensor]:
        for batch, state in zip(batches, states, strict=True):
            with _drawing_from(state):
                scalar = run(batch, term)
            # Engines average over processes; each has a part of the gradient, not a copy.
            yield scalar * world_size()

    return Replay(result, rows, terms())


def _totals(run: Run, rows: Sequence[Tensor]) -> Totals:
    """Return all totals, each found with those before it."""
    totals: Totals = []
    while sums := _summed(run(r, partial(_next_sums, totals)) for r in rows):
        totals.append(sums)
    return totals


def _slopes(run: Run, rows: Sequence[Tensor], totals: Totals) -> tuple[Any, Totals]:
    """Return the result, and the derivative of its loss along each total."""
    result, found = run(rows[0], partial(_result, totals))
    slopes = [[next(found) for _ in stage] for stage in totals]
    for stage in reversed(range(len(totals) - 1)):
        later = _summed(run(r, partial(_slope_along, totals, slopes, stage)) for r in rows)
        slopes[stage] = [own + more for own, more in zip(slopes[stage], later, strict=True)]
    return result, slopes


def _next_sums(known: Totals, staged: Staged[R]) -> list[Tensor]:
    """Return these rows' part of the first sums that are not known; nothing at the end."""
    asked, _ = _follow(staged, known)
    return [row_sum.value() for row_sum in asked[-1]] if len(asked) > len(known) else []


def _result(totals: Totals, staged: Staged[R]) -> tuple[R, Iterator[Tensor]]:
    """Return the result, and the slopes along totals that it is made of, without later sums."""
    leaves = [_leaves(stage) for stage in totals]
    _, result = _follow(staged, leaves)
    return result, iter(_derivative(result.loss, [*chain(*leaves)]))


def _slope_along(totals: Totals, slopes: Totals, stage: int, staged: Staged[R]) -> list[Tensor]:
    """Return these rows' part of the slope along a stage's totals, which later sums depend on."""
    leaves = _leaves(totals[stage])
    known = [*totals[:stage], leaves, *totals[stage + 1 :]]
    scalar = _weigh(known, slopes, stage + 1, staged)
    return _derivative(scalar, leaves)


def _weigh(known: Totals, slopes: Totals, first: int, staged: Staged[R]) -> Tensor:
    """Return the scalar product of these rows' sums, from stage `first` on, with their slopes."""
    asked, _ = _follow(staged, known[:-1])
    pairs = zip(chain(*asked[first:]), chain(*slopes[first:]), strict=True)
    return torch.stack([row_sum.against(slope).double() for row_sum, slope in pairs]).sum()


def _follow(staged: Staged[R], known: Totals) -> tuple[list[list[RowSum]], Any]:
    """Return what is asked for at each stage as far as totals are known, and the result if reached."""
    asked: list[list[RowSum]] = []
    for total in (None, *known):
        try:
            asked.append(staged.send(total))  # type: ignore[arg-type]  # None starts it
        except StopIteration as end:
            return asked, end.value
    staged.close()
    return asked, None


def _summed(parts: Iterator[list[Tensor]]) -> list[Tensor]:
    """Add over micro-batches, in float64, and over processes."""
    first = next(parts)
    if not first:
        return []  # nothing more is asked for, of these rows or of any
    sums = [part.double() for part in first]
    for part in parts:
        sums = [total.add_(more) for total, more in zip(sums, part, strict=True)]
    with torch.no_grad():
        return [all_reduce_sum(s).to(like.dtype) for s, like in zip(sums, first, strict=True)]


def _derivative(scalar: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    # To be called within `run`: engines change gradients that pass through a module's answer.
    found = torch.autograd.grad(scalar, leaves, allow_unused=True, materialize_grads=True)
    return list(found)


def _leaves(totals: list[Tensor]) -> list[Tensor]:
    return [total.detach().requires_grad_() for total in totals]


def _random_state() -> tuple[Tensor, list[Tensor]]:
    graphics = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), graphics


@contextmanager
def _drawing_from(state: tuple[Tensor, list[Tensor]]) -> Iterator[None]:
    """Draw random numbers from a state that was kept, and leave the present one as it is."""
    processor, graphics = state
    with torch.random.fork_rng(range(len(graphics))):
        torch.set_rng_state(processor)
        if graphics:
            torch.cuda.set_rng_state_all(graphics)
        yield
