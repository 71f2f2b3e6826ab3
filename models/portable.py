"""The portable student: one graph from raw observations to embeddings, for other runtimes.

The one idea: whoever runs an exported student has neither this package nor its rules, so what can
be part of the graph is: the statistics that scale each input, the zero token of a sensor that saw
nothing, NaN where nothing was seen at all. A batch is padded to one length for each input, and
`copies` says how often each observation counts: 0 is padding, 1 an observation, 2 one that the
bucket ladder repeats. Its logarithm is added to every logit that looks at the observation, which
is the same softmax as repeating it (see `models.packing`).

It deliberately writes attention out as matrix products and a softmax, which every runtime has, and
is not used for maps: `models.encode` computes the same embeddings without padding.

Axis words: `b` batch, `t` observations (padded, may differ between inputs), `band`, `d` width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from models.bands import STD_FLOOR, Normalisation
from models.buckets import bucket_of, resample_indices
from models.dpixel import DPixels, Series
from models.encoder import PostNormLayer, QkNormLayer, SensorBranch, doy_code
from models.student import Student

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64

INPUTS = tuple(
    f"{series}{part}" for series in ("s2", "s1_asc", "s1_desc") for part in ("", "_doy", "_copies")
)
"""Names of the inputs in the order of `PortableStudent.forward`."""

OUTPUT = "embedding"
"""Name of the output."""

Tokens = tuple[Tensor, Tensor, Tensor]
"""Values (b, t, band), days of year (b, t) and copies (b, t)."""


class PortableStudent(nn.Module):
    """A student with its statistics and its rules for what is absent, on raw padded batches.

    Args:
        student: its weights are shared, not copied.
        normalisation: the statistics the student was trained with.

    Raises:
        ValueError: for anything but a student.
    """

    def __init__(self, student: Student, normalisation: Normalisation) -> None:
        super().__init__()
        if not isinstance(student, Student):
            raise ValueError(f"expected a student, got a {type(student).__name__.lower()}")
        self.student = student
        self.scale_s2 = Scale(normalisation.s2_mean, normalisation.s2_std)
        self.scale_s1_asc = Scale(normalisation.s1_asc_mean, normalisation.s1_asc_std)
        self.scale_s1_desc = Scale(normalisation.s1_desc_mean, normalisation.s1_desc_std)

    def forward(  # noqa: PLR0917 - the inputs of a graph stand in an order
        self,
        s2: Float[Tensor, "b t2 band2"],
        s2_doy: Float[Tensor, "b t2"],
        s2_copies: Float[Tensor, "b t2"],
        s1_asc: Float[Tensor, "b ta band1"],
        s1_asc_doy: Float[Tensor, "b ta"],
        s1_asc_copies: Float[Tensor, "b ta"],
        s1_desc: Float[Tensor, "b td band1"],
        s1_desc_doy: Float[Tensor, "b td"],
        s1_desc_copies: Float[Tensor, "b td"],
    ) -> Float[Tensor, "b repr"]:
        """Return embeddings; NaN where no observation of either sensor counts.

        Args:
            s2: raw digital numbers, bands in `S2_BANDS` order. Where copies are 0 anything may
                stand, NaN too; the same holds for days and for the other inputs.
            s2_doy: their days of year, 1..366.
            s2_copies: how often each counts, 0 for padding.
            s1_asc: raw coded decibels of ascending passes, bands in `S1_BANDS` order.
            s1_asc_doy: their days of year.
            s1_asc_copies: how often each counts; the ladder applies to both directions together.
            s1_desc: likewise, descending.
            s1_desc_doy: their days of year.
            s1_desc_copies: how often each counts.
        """
        optical = self.scale_s2(s2, s2_doy, s2_copies)
        ascending = self.scale_s1_asc(s1_asc, s1_asc_doy, s1_asc_copies)
        descending = self.scale_s1_desc(s1_desc, s1_desc_doy, s1_desc_copies)
        pooled2, saw2 = _pool(self.student.s2_backbone, _with_zero_token(optical))
        pooled1, saw1 = _pool(self.student.s1_backbone, _with_zero_token(ascending, descending))
        embedding = self.student.fuse(pooled2, pooled1)
        return torch.where(saw2 | saw1, embedding, torch.full_like(embedding, torch.nan))


class Scale(nn.Module):
    """Scale raw numbers by z = (x - mean) / (std + 1e-9), and put zeros where nothing counts."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        floored = torch.tensor(std, dtype=torch.float64) + STD_FLOOR
        self.register_buffer("std", floored.to(torch.float32))

    def forward(
        self,
        values: Float[Tensor, "b t band"],
        doy: Float[Tensor, "b t"],
        copies: Float[Tensor, "b t"],
    ) -> Tokens:
        """Return z-scores, days and copies. A negative or NaN count of copies stays as it is."""
        # Selected, not multiplied: padding may hold NaN, and NaN times zero is NaN.
        counts = copies > 0
        values = torch.where(counts[..., None], values, self.mean)
        return (values - self.mean) / self.std, torch.where(counts, doy, 0.0), copies


def portable_inputs(
    dpixels: DPixels, ladder: tuple[int, ...]
) -> dict[str, Float32[np.ndarray, "b ..."]]:
    """Return the inputs of a `PortableStudent` by name, padded with zeros.

    With these copies the embeddings are those of `models.encode` with the same ladder.
    """
    s2, asc, desc = dpixels.s2, dpixels.s1_asc, dpixels.s1_desc
    inputs = _padded("s2", s2, [_copies(n, ladder) for n in s2.counts])
    # The ladder sees both directions as one series, ascending observations first.
    s1 = [_copies(n, ladder) for n in dpixels.s1_counts]
    inputs |= _padded("s1_asc", asc, [c[:n] for c, n in zip(s1, asc.counts, strict=True)])
    return inputs | _padded("s1_desc", desc, [c[n:] for c, n in zip(s1, asc.counts, strict=True)])


def _padded(
    name: str, series: Series, copies: list[Int64[np.ndarray, " t"]]
) -> dict[str, Float32[np.ndarray, "b ..."]]:
    b, t = len(series), int(series.counts.max(initial=0))
    shapes = {name: (b, t, series.values.shape[1]), f"{name}_doy": (b, t), f"{name}_copies": (b, t)}
    arrays = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    place = np.arange(t) < series.counts[:, None]
    filled = (series.values, series.doy, np.concatenate([np.zeros(0), *copies]))
    for array, content in zip(arrays.values(), filled, strict=True):
        array[place] = content
    return arrays


def _copies(count: int, ladder: tuple[int, ...]) -> Int64[np.ndarray, " t"]:
    """Return how often each of so many observations fills a slot of its bucket."""
    if count == 0:
        return np.zeros(0, np.int64)
    bucket = int(bucket_of(np.array([count]), ladder)[0])
    return np.bincount(resample_indices(int(count), bucket), minlength=count)


def _with_zero_token(*parts: Tokens) -> Tokens:
    """Join tokens behind a zero token that counts, once, only where no other does."""
    values, doy, copies = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    alone = (copies.sum(dim=1, keepdim=True) == 0).to(copies.dtype)
    return F.pad(values, (0, 0, 1, 0)), F.pad(doy, (1, 0)), torch.cat((alone, copies), dim=1)


def _pool(branch: SensorBranch, tokens: Tokens) -> tuple[Float[Tensor, "b d"], Tensor]:
    """Return a branch's vector, and (b, 1) where it comes from more than the zero token."""
    values, doy, copies = tokens
    log_copies = copies.log()  # -inf where nothing counts; the zero token keeps a row finite
    x = branch.embedding(values) + doy_code(doy, branch.width)
    for layer in branch.layers:
        x = _through(layer, x, log_copies)
    weight = (branch.attn_pool.query(x)[..., 0] + log_copies).softmax(dim=-1)
    return (weight[:, None] @ x)[:, 0], copies[:, :1] == 0


def _through(
    layer: nn.Module, x: Float[Tensor, "b t d"], log_copies: Float[Tensor, "b t"]
) -> Float[Tensor, "b t d"]:
    """Return the tokens after one layer of a student, both kinds of which are post-norm."""
    if isinstance(layer, PostNormLayer):
        attention = layer.self_attn
        qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
        query, key, value = (_heads_first(part, attention.heads) for part in qkv)
        out = attention.out_proj
    elif isinstance(layer, QkNormLayer):
        projections = (layer.q_proj, layer.k_proj, layer.v_proj)
        query, key, value = (_heads_first(project(x), layer.heads) for project in projections)
        query, key, out = layer.q_norm(query), layer.k_norm(key), layer.out_proj
    else:
        raise ValueError(f"expected a layer of a student, got {type(layer).__name__}")
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    mixed = (logits + log_copies[:, None, None]).softmax(dim=-1) @ value
    x = layer.norm1(x + out(mixed.transpose(1, 2).flatten(-2)))
    normed: Tensor = layer.norm2(x + layer.linear2(F.relu(layer.linear1(x))))
    return normed


def _heads_first(x: Float[Tensor, "b t d"], heads: int) -> Float[Tensor, "b head t e"]:
    batch, time, width = x.shape
    return x.view(batch, time, heads, width // heads).transpose(1, 2)
