"""Sums over all processes that gradients pass through, and the batch norm built on them.

The one idea: a statistic of the global batch is a sum over ranks, and the derivative of that sum
must be summed over ranks too. The in-place all-reduce has no derivative at all: each rank then
trains on a gradient that is wrong in length and direction, and nothing fails.

Gradient semantics. Let every rank compute the same global loss. Backward through `all_reduce_sum`
adds the gradients of all W ranks, so each rank holds W times the part of the gradient that flows
through its own rows. Averaging over ranks, as DDP and ZeRO do, then gives exactly the gradient of
one process with the whole batch. A term computed from local rows only must be a mean over equal
local batches, as always under gradient averaging.

It deliberately never sets up a process group: without one, or with one rank, it is the identity.

Axis words: `b` local batch, `d` features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


def all_reduce_sum(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the sum of x over all ranks; backward sums the gradients over all ranks.

    Every rank must call it in the same order with equal shapes, forward and backward.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    total: Tensor = _AllReduceSum.apply(x)  # type: ignore[no-untyped-call]  # torch has no types
    return total


class GlobalBatchNorm(nn.Module):
    """Batch norm with the statistics of the global batch, a scale and a shift, and no memory.

    No running statistics: they would differ between ranks, most engines save rank 0's only, and a
    layer that exists in pretraining alone never needs them. Ranks may hold different numbers of
    rows. The variance is that of the batch (biased), found in a second pass after the mean, since a
    difference of large sums loses its digits in float32.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return x scaled to mean 0 and variance 1 over the global batch, then scaled and shifted.

        Raises:
            ValueError: if x does not have one column for each feature.
        """
        if x.ndim != 2 or x.shape[1] != len(self.weight):
            raise ValueError(f"expected (batch, {len(self.weight)}), got {tuple(x.shape)}")
        centred, count = centre(x)
        variance = all_reduce_sum(centred.square().sum(0)) / count
        normal = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return normal.to(x.dtype)


def centre(x: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, ""]]:
    """Subtract the mean over the global batch; return also the global number of rows.

    Computed in float32 at least, whatever autocast chose for x.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    count = wide.new_tensor([float(len(wide))])
    total = all_reduce_sum(torch.cat((wide.sum(0), count)))
    return wide - total[:-1] / total[-1], total[-1].detach()


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
