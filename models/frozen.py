"""Frozen encoders: a student or teacher rearranged for inference, with the same embeddings.

The one idea: tokens are packed (`models.packing`), linear maps are chosen by precision
(`models.linears`), and everything that is the same for all d-pixels is made once: the day-of-year
code of each day, and the vector of a sensor without observations.

Every chunk is filled up with idle tokens to one of a few sizes, because oneDNN prepares a kernel for
each size it meets. What else is in a chunk moves the last bits of a float32 embedding, no more.

It deliberately knows no d-pixels, buckets or statistics: tokens in, pooled vectors out.

Axis words: `token`, `row` d-pixels, `d` branch width, `repr`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from models.encoder import (
    RMS_NORM_EPS,
    PostNormLayer,
    QkNormLayer,
    SensorBranch,
    doy_code,
)
from models.linears import Int8Linear, Linear, PackedLinear, TorchLinear
from models.packing import Run
from models.precision import Precision, has_onednn, largest_weight_code

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_DAYS = 367  # day 0 is the zero token's
_UNIT = 256  # tokens; chunks are filled up to a multiple, so kernels are prepared for few sizes
_PACKED_FOR = 8192  # tokens; the packing for more is the same, and oneDNN refuses absurd numbers

MakeLinear = Callable[[Tensor, Tensor], Linear]
WeightedRun = tuple[Run, Tensor | None]
"""A run, and its logarithms of copies on the device of the tokens."""


def linear_maker(precision: Precision, device: torch.device, num_tokens: int) -> MakeLinear:
    """Return what turns (weight, bias) into the linear map of a precision and device.

    Args:
        precision: one that `models.precision.check_precision` admits there.
        device: where weights and tokens are.
        num_tokens: tokens of a chunk, for which weights are packed.
    """
    num_tokens = min(num_tokens, _PACKED_FOR)
    if precision == "int8":
        code = largest_weight_code()
        return lambda weight, bias: Int8Linear(weight, bias, num_tokens, code)
    if precision == "bfloat16":
        return lambda weight, bias: TorchLinear(weight, bias, torch.bfloat16)
    if device.type == "cpu" and has_onednn():
        return lambda weight, bias: PackedLinear(weight, bias, num_tokens)
    return lambda weight, bias: TorchLinear(weight, bias, torch.float32)


class FrozenLayer:
    """One Transformer layer over packed tokens."""

    def __init__(self, layer: nn.Module, make: MakeLinear) -> None:
        self._gains: tuple[Tensor, Tensor] | None = None
        if isinstance(layer, PostNormLayer):
            attention = layer.self_attn
            self._heads, self._pre_norm = attention.heads, False
            self._qkv = make(attention.in_proj_weight, attention.in_proj_bias)
            self._out = make(attention.out_proj.weight, attention.out_proj.bias)
        elif isinstance(layer, QkNormLayer):
            self._heads, self._pre_norm = layer.heads, layer.pre_norm
            self._gains = (layer.q_norm.weight, layer.k_norm.weight)
            parts = (layer.q_proj, layer.k_proj, layer.v_proj)
            weight, bias = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
            self._qkv = make(weight, bias)
            self._out = make(layer.out_proj.weight, layer.out_proj.bias)
        else:
            raise ValueError(f"expected a Transformer layer, got {type(layer).__name__}")
        self._up = make(layer.linear1.weight, layer.linear1.bias)
        self._down = make(layer.linear2.weight, layer.linear2.bias)
        self._norms = (layer.norm1, layer.norm2)

    def __call__(self, x: Float[Tensor, "token d"], runs: list[WeightedRun]) -> Tensor:
        """Return the tokens after attention within each d-pixel and feed-forward."""
        norm1, norm2 = self._norms
        if self._pre_norm:
            x = self._out(self._attend(self._qkv(norm1(x)), runs), add=x)
            return self._down(self._up(norm2(x), relu=True), add=x)
        x = norm1(self._out(self._attend(self._qkv(x), runs), add=x))
        normed: Tensor = norm2(self._down(self._up(x, relu=True), add=x))
        return normed

    def _attend(self, qkv: Float[Tensor, "token d3"], runs: list[WeightedRun]) -> Tensor:
        query, key, value = qkv.view(len(qkv), 3, self._heads, -1).unbind(1)
        if self._gains is not None:
            query, key = (
                F.rms_norm(part.float(), part.shape[-1:], gain, RMS_NORM_EPS).to(part.dtype)
                for part, gain in zip((query, key), self._gains, strict=True)
            )
        mixed = query.new_empty(query.shape)
        for run, log_copies in runs:
            q, k, v = (_heads_first(part, run) for part in (query, key, value))
            bias = None
            if log_copies is not None:
                bias = log_copies.to(q.dtype).expand(1, 1, run.length, run.length)
            found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            mixed[run.tokens] = found.transpose(1, 2).flatten(0, 1)
        # Idle tokens: a NaN among them would move the int8 zero point of all.
        mixed[runs[-1][0].tokens.stop :] = 0
        return mixed.flatten(1)


class FrozenBranch:
    """A sensor branch over packed tokens."""

    def __init__(self, branch: SensorBranch, make: MakeLinear, max_tokens: int) -> None:
        first, second = branch.linears
        # Decision: both maps of the embedding stay in float32 for any precision. They are a
        # twentieth of the work, their input is not normalised, and what they round is in the
        # residual sum of every layer behind.
        exact = linear_maker("float32", first.weight.device, max_tokens)
        self._first = (first.weight, first.bias)
        self._second = exact(second.weight, second.bias)
        self._layers = [FrozenLayer(layer, make) for layer in branch.layers]
        self._query = branch.attn_pool.query
        days = torch.arange(_DAYS, device=first.weight.device, dtype=torch.float32)
        self._days = doy_code(days[None], branch.width)[0]
        self._unit = min(_UNIT, max_tokens)
        self._num_bands, self.width = first.weight.shape[1], branch.width
        self.unobserved = self._of_zero_token()

    def __call__(
        self, values: Float[Tensor, "token band"], doy: Int[Tensor, " token"], runs: tuple[Run, ...]
    ) -> Float[Tensor, "row d"]:
        """Return one pooled vector for each d-pixel of a chunk.

        Args:
            values: z-scored observations, packed.
            doy: their days of year.
            runs: of the chunk, covering all tokens in order.
        """
        idle = -len(values) % self._unit
        values, doy = F.pad(values, (0, 0, 0, idle)), F.pad(doy, (0, idle))
        x = self._second(F.linear(values, *self._first).relu_(), add=self._days[doy])
        weighted = [(run, _log_copies(run, x.device)) for run in runs]
        for layer in self._layers:
            x = layer(x, weighted)
        return self._pool(x, weighted)

    def _pool(self, x: Tensor, runs: list[WeightedRun]) -> Tensor:
        score: Tensor = self._query(x)[:, 0]
        pooled = x.new_empty(runs[-1][0].rows.stop, x.shape[1])
        for run, log_copies in runs:
            logits = score[run.tokens].view(run.num_rows, run.length)
            weight = (logits if log_copies is None else logits + log_copies).softmax(-1)
            tokens = x[run.tokens].view(run.num_rows, run.length, -1)
            pooled[run.rows] = torch.bmm(weight[:, None], tokens)[:, 0]
        return pooled

    def _of_zero_token(self) -> Float[Tensor, " d"]:
        """Return the vector of a sensor that saw nothing: one token of zeros on day 0."""
        device = self._days.device
        zero = torch.zeros(1, self._num_bands, device=device)
        run = Run(slice(0, 1), slice(0, 1), 1, None)
        return self(zero, torch.zeros(1, dtype=torch.int64, device=device), (run,))[0]


def _log_copies(run: Run, device: torch.device) -> Tensor | None:
    return None if run.log_copies is None else torch.tensor(run.log_copies, device=device)


def _heads_first(part: Float[Tensor, "token head e"], run: Run) -> Float[Tensor, "row head slot e"]:
    by_row = part[run.tokens].view(run.num_rows, run.length, *part.shape[1:])
    return by_row.transpose(1, 2)
