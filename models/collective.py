"""Sums over all processes that gradients pass through.

The one idea: a statistic of the global batch is a sum over ranks, and the derivative of that sum
must be summed over ranks too. The in-place all-reduce has no derivative at all: each rank then
trains on a gradient that is wrong in length and direction, and nothing fails.

Gradient semantics. Let every rank compute the same global loss. Backward through `all_reduce_sum`
adds the gradients of all W ranks, so each rank holds W times the part of the gradient that flows
through its own rows. Averaging over ranks, as DDP and ZeRO do, then gives exactly the gradient of
one process with the whole batch. A term computed from local rows only must be a mean over equal
local batches, as always under gradient averaging.

It deliberately never sets up a process group: without one, or with one rank, it is the identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def all_reduce_sum(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the sum of x over all ranks; backward sums the gradients over all ranks.

    Every rank must call it in the same order with equal shapes, forward and backward.
    """
    if world_size() == 1:
        return x
    total: Tensor = _AllReduceSum.apply(x)  # type: ignore[no-untyped-call]  # torch has no types
    return total


def world_size() -> int:
    """Return the number of processes, 1 where no group has been set up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total

    @staticmethod
    def backward(_ctx: object, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total
