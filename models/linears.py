"""Linear maps for inference: the same map by the kernel that a precision and a device call for.

The one idea: an encoder is its linear maps; attention and norms are a tenth of the work. So the
frozen encoder (`models.frozen`) is written once, and a precision is nothing but another class here.

| precision | kernel |
|---|---|
| float32 on a CPU | oneDNN with packed weights, ReLU or residual sum fused |
| float32 elsewhere, bfloat16 anywhere | torch's own linear |
| int8 on a CPU | oneDNN u8 x s8: weights by output channel, activations by token |

Decision: each token gets an int8 scale of its own, from its own range. No calibration data is needed,
nothing is clipped, and a saturated observation costs its own pixel accuracy and no other. The price
is a pass over the kernel's output, which knows one scale for all tokens only: a tenth of the time.

It deliberately decides nothing: which precision a processor really has is `models.precision`.

Axis words: `token`, `in`, `out`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int8, UInt8

LEVELS = 255
"""Steps of an unsigned 8-bit activation."""
_MIDDLE = 128


class Linear(Protocol):
    """x @ weight.T + bias, then a ReLU or a residual sum."""

    def __call__(
        self, x: Float[Tensor, "token in"], *, relu: bool = False, add: Tensor | None = None
    ) -> Float[Tensor, "token out"]:
        """Map tokens; `relu` and `add` exclude each other."""
        ...


class TorchLinear:
    """Torch's own linear map in the dtype of its weights, on any device.

    A residual sum is done in the residual's own, wider type.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self._weight, self._bias = weight.to(dtype), bias.to(dtype)

    def __call__(self, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """See `Linear`."""
        y = F.linear(x.to(self._weight.dtype), self._weight, self._bias)
        if add is not None:
            return add + y
        return y.relu_() if relu else y


class PackedLinear:
    """Float32 on a CPU: oneDNN, with weights packed once and what follows fused."""

    def __init__(self, weight: Tensor, bias: Tensor, num_tokens: int) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), num_tokens)
        self._bias = bias

    def __call__(self, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """See `Linear`."""
        fused = torch.ops.mkldnn._linear_pointwise
        if add is not None:
            summed: Tensor = fused.binary(x, add, self._weight, self._bias, "add")
            return summed
        mapped: Tensor = fused(x, self._weight, self._bias, "relu" if relu else "none", [], "")
        return mapped


class Int8Linear:
    """Eight-bit weights and activations on a CPU: oneDNN, sums in int32, result in float32."""

    def __init__(self, weight: Tensor, bias: Tensor, num_tokens: int, largest_code: int) -> None:
        codes, self._scale = quantize_weight(weight, largest_code)
        self._weight = torch.ops.onednn.qlinear_prepack(codes, [num_tokens, weight.shape[1]])
        self._zero = torch.zeros(len(codes), dtype=torch.int32)
        self._bias = bias

    def __call__(self, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """See `Linear`."""
        codes, scale, zero = quantize_activation(x)
        weight = (self._weight, self._scale, self._zero)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, zero, *weight, None, 1.0, 0, torch.float32, "none", [], ""
        )
        if add is not None:
            return torch.addcmul(add, y, scale).add_(self._bias)
        y = y.mul_(scale).add_(self._bias)
        return y.relu_() if relu else y


def quantize_weight(
    weight: Float32[Tensor, "out in"], largest_code: int
) -> tuple[Int8[Tensor, "out in"], Float32[Tensor, " out"]]:
    """Return codes and one scale for each output channel: weight ~ codes * scale.

    Args:
        weight: finite weights.
        largest_code: 127, or 64 where 8-bit kernels add pairs of products in 16 bits.
    """
    peak = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    scale = peak / largest_code
    return (weight / scale[:, None]).round().to(torch.int8), scale


def quantize_activation(
    x: Float32[Tensor, "token in"],
) -> tuple[UInt8[Tensor, "token in"], Float32[Tensor, "token 1"], int]:
    """Return codes, a scale for each token, and the zero point of all: x ~ (codes - zero) * scale.

    Off by at most half a scale. Where no token is negative, as behind a ReLU, the zero point is 0
    and all 255 steps are used; else it is 128 and 127 steps reach either way.
    """
    tiny = torch.finfo(torch.float32).tiny
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    if low.min() >= 0:
        zero, scale = 0, high.div_(LEVELS).clamp_min_(tiny)
    else:
        zero, scale = _MIDDLE, torch.maximum(high, low.neg_()).div_(LEVELS // 2).clamp_min_(tiny)
    # By way of int8, whose conversion torch vectorises; the shift back wraps around in 8 bits.
    shifted = torch.mul(x, 1 / scale).round_().add_(zero - _MIDDLE).clamp_(-128, 127)
    return shifted.to(torch.int8).view(torch.uint8).add_(_MIDDLE), scale, zero
