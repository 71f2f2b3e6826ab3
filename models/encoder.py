"""The sensor branch: a variable number of dated observations in, one vector out.

The one idea: a branch is a function of a set of (values, day of year). Observations are embedded,
dated by a sinusoidal day-of-year code, mixed by Transformer layers without any mask or position
other than the date, and averaged by learned attention pooling. Any number of tokens will do.

Two layer types exist because released weights need both, with exactly these parameter names:
`PostNormLayer` (plain students) and `QkNormLayer` (students with QK-norm post-LN, teacher pre-LN).

It deliberately has no dropout. Decision: the paper names none, every objective here is a single
pass over the data, and a run without dropout is the same on any number of processes; slots where
the released modules hold a dropout are kept empty so that names agree.

Axis words: `b` batch, `t` time (tokens), `band`, `d` width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from jaxtyping import Float

LAYER_NORM_EPS = 1e-5
RMS_NORM_EPS = float(torch.finfo(torch.float32).eps)
DOY_BASE = 10000.0


def doy_code(doy: Float[Tensor, "b t"], width: int) -> Float[Tensor, "b t d"]:
    """Return the sinusoidal code of the raw day of year: sine in even, cosine in odd channels.

    Args:
        doy: day of year, 1..366 and unscaled; 0 for the zero token; fractions occur in mix-up.
        width: number of channels d, even.

    Returns:
        Channels sin(doy * f_0), cos(doy * f_0), sin(doy * f_1), ... with f_i = 10000**(-2i/d).

    Raises:
        ValueError: if the width is odd.
    """
    if width % 2:
        raise ValueError(f"expected an even width for the day-of-year code, got {width}")
    # Float32 even under autocast: in bfloat16 the days 257 and 258 are the same number.
    day = doy.to(torch.promote_types(doy.dtype, torch.float32))
    even = torch.arange(0, width, 2, device=day.device, dtype=day.dtype)
    angle = day[..., None] * torch.exp(even * (-math.log(DOY_BASE) / width))
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)


class RmsNorm(nn.Module):
    """Root-mean-square norm of one attention head with a learned gain, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Scale x to unit root mean square over its last axis, times the gain."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normal = F.rms_norm(wide, (wide.shape[-1],), self.weight, RMS_NORM_EPS)
        return normal.to(x.dtype)


class PackedAttention(nn.Module):
    """Multi-head self-attention with q, k, v in one matrix, named as in `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Attend over the time axis, every token to every token."""
        query, key, value = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(
            _split(query, self.heads), _split(key, self.heads), _split(value, self.heads)
        )
        out: Tensor = self.out_proj(_join(mixed))
        return out


class PostNormLayer(nn.Module):
    """Transformer layer with the norm after each residual sum and a ReLU feed-forward.

    The same function as `nn.TransformerEncoderLayer(batch_first=True, dropout=0)`, with its names.
    """

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = PackedAttention(width, heads)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.keeps_input_only = False

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the tokens after attention and feed-forward."""
        return _recomputed(self._mix, x) if self.keeps_input_only else self._mix(x)

    def _mix(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x))
        out: Tensor = self.norm2(x + self.linear2(F.relu(self.linear1(x))))
        return out


class QkNormLayer(nn.Module):
    """Transformer layer whose queries and keys are RMS-normalised per head.

    With `pre_norm` the norms come before each block (teacher), otherwise after each residual sum
    (students with QK-norm).
    """

    def __init__(self, width: int, heads: int, feedforward: int, *, pre_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.pre_norm = pre_norm
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.q_norm = RmsNorm(width // heads)
        self.k_norm = RmsNorm(width // heads)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.keeps_input_only = False

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the tokens after attention and feed-forward."""
        return _recomputed(self._mix, x) if self.keeps_input_only else self._mix(x)

    def _mix(self, x: Tensor) -> Tensor:
        if self.pre_norm:
            x = x + self._attend(self.norm1(x))
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self._attend(x))
        out: Tensor = self.norm2(x + self._feed(x))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        query = self.q_norm(_split(self.q_proj(x), self.heads))
        key = self.k_norm(_split(self.k_proj(x), self.heads))
        value = _split(self.v_proj(x), self.heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(_join(mixed))
        return out

    def _feed(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(F.relu(self.linear1(x)))
        return out


class LayerStack(nn.Module):
    """Layers one after another, under the name `layers` that released weights use."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the tokens after every layer."""
        for layer in self.layers:
            x = layer(x)
        return x


def recompute_layers(module: nn.Module) -> None:
    """Let every Transformer layer of a module keep its input only, for training in less memory.

    What the layer computes in between is computed again in the backward pass, with the same random
    state: gradients are the same to the bit, a step takes about a third longer.
    """
    for layer in module.modules():
        if isinstance(layer, PostNormLayer | QkNormLayer):
            layer.keeps_input_only = True


class AttentionPooling(nn.Module):
    """Average over time with weights softmax(query(token)), computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b d"]:
        """Return one vector a row; a single token is returned as it is."""
        score = self.query(x)
        wide = score.to(torch.promote_types(score.dtype, torch.float32))
        pooled: Tensor = (wide.softmax(dim=1) * x).sum(dim=1)
        return pooled


class SensorBranch(nn.Module):
    """Embed the observations of one sensor, date them, mix them and pool them to one vector."""

    def __init__(self, num_bands: int, width: int, transformer: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Sequential(
            nn.Linear(num_bands, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.transformer_encoder = transformer
        self.attn_pool = AttentionPooling(width)
        self.width = width

    @property
    def linears(self) -> tuple[nn.Linear, nn.Linear]:
        """The two linear maps that embed an observation."""
        first, second = (map_ for map_ in self.embedding if isinstance(map_, nn.Linear))
        return first, second

    @property
    def layers(self) -> list[nn.Module]:
        """The Transformer layers, first to last."""
        stack = self.transformer_encoder
        return list(stack.layers if isinstance(stack, LayerStack) else stack.children())

    def forward(
        self, values: Float[Tensor, "b t band"], doy: Float[Tensor, "b t"]
    ) -> Float[Tensor, "b d"]:
        """Encode z-scored observations and their days of year.

        Raises:
            ValueError: if there is no token; a sensor without data is given as one zero token.
        """
        if values.shape[1] == 0:
            raise ValueError("expected at least one token a row (a zero token for no data), got 0")
        tokens = self.embedding(values)
        tokens = tokens + doy_code(doy, self.width)
        pooled: Tensor = self.attn_pool(self.transformer_encoder(tokens))
        return pooled


def reducer(width: int, repr_dim: int) -> nn.Sequential:
    """Return the head from two joined branch vectors (2d) to the embedding.

    The last LayerNorm has no scale or shift, so each embedding has mean 0 and variance 1 over its
    coordinates. Position 3 is where the released module holds its training-time dropout.

    Source: TESSERA v2, section 4, "Architecture"; the hidden layer is the released code's.
    """
    return nn.Sequential(
        nn.Linear(2 * width, 4 * width),
        nn.LayerNorm(4 * width, eps=LAYER_NORM_EPS),
        nn.ReLU(),
        nn.Identity(),
        nn.Linear(4 * width, repr_dim),
        nn.LayerNorm(repr_dim, eps=LAYER_NORM_EPS, elementwise_affine=False),
    )


def _recomputed(mix: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    out: Tensor = checkpoint(mix, x, use_reentrant=False)
    return out


def _split(x: Tensor, heads: int) -> Tensor:
    batch, time, _ = x.shape
    return x.view(batch, time, heads, -1).transpose(1, 2)  # (b, heads, t, d / heads)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(-2)
