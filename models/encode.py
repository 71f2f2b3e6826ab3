"""Encode d-pixels: one function from observations to embeddings, for tiles, tables and shards.

The one idea: the result is that of the bucket ladder, computed without its padding. Each sensor is
packed on its own, so d-pixels are grouped by one length and not by a pair of lengths, and repeated
observations are counted instead of computed (`models.packing`). A sensor without observations is
one zero token; a d-pixel without any is NaN.

It deliberately reads and writes nothing, and quantises nothing.

Axis words: `n` d-pixels, `d` branch width, `repr` embedding coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from models.bands import Normalisation
from models.buckets import merge_s1, normalised_s2
from models.dpixel import DPixels, Series
from models.frozen import FrozenBranch, linear_maker
from models.packing import pack
from models.precision import Precision, check_precision
from models.student import Student
from models.teacher import Teacher

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

CPU_TOKENS = 2048
"""Tokens of a chunk whose activations stay in a CPU's cache."""
GPU_TOKENS = 262_144
"""Tokens of a chunk that fill a GPU. Decision: by the size of an A100's caches and the launch cost
of a kernel, not measured."""


class Encoder:
    """A frozen student or teacher with everything that encoding a d-pixel needs.

    Args:
        model: its weights are used as they are now; on the device where it will run.
        normalisation: the statistics the model was trained with, from its checkpoint.
        ladder: the bucket lengths the model is used with, from its checkpoint.
        precision: number format of the linear maps of both branches.
        max_tokens: tokens of a chunk, or None for the device's usual. It changes speed and the last
            bits, nothing else.

    Raises:
        ValueError: if the device lacks the precision, or max_tokens is below 1.
    """

    def __init__(
        self,
        model: Student | Teacher,
        normalisation: Normalisation,
        ladder: tuple[int, ...],
        *,
        precision: Precision = "float32",
        max_tokens: int | None = None,
    ) -> None:
        self.device = next(model.parameters()).device
        check_precision(precision, self.device)
        usual = CPU_TOKENS if self.device.type == "cpu" else GPU_TOKENS
        self.max_tokens = usual if max_tokens is None else max_tokens
        if self.max_tokens < 1:
            raise ValueError(f"expected max_tokens >= 1, got {max_tokens}")
        self.model, self.normalisation, self.ladder = model.eval(), normalisation, ladder
        self.precision = precision
        with torch.inference_mode():
            make = linear_maker(precision, self.device, self.max_tokens)
            self._s2 = FrozenBranch(model.s2_backbone, make, self.max_tokens)
            self._s1 = FrozenBranch(model.s1_backbone, make, self.max_tokens)

    @property
    def dim(self) -> int:
        """Full length of an embedding."""
        return self.model.config.repr_dim

    def encode(self, dpixels: DPixels) -> Float32[np.ndarray, "n repr"]:
        """Return one embedding for each d-pixel, from all of its observations.

        Args:
            dpixels: raw observations; a few thousand at once fill the chunks well.

        Returns:
            Embeddings in row order; NaN where a d-pixel has no observation of either sensor.

        Source: TESSERA v2, section 4, "Adaptive bucket sampling at inference".
        """
        s2, s1 = normalised_s2(dpixels, self.normalisation), merge_s1(dpixels, self.normalisation)
        out = np.full((len(dpixels), self.dim), np.nan, dtype=np.float32)
        with torch.inference_mode():
            pooled2, pooled1 = self._pool(self._s2, s2), self._pool(self._s1, s1)
            for start in range(0, len(dpixels), self.max_tokens):
                rows = slice(start, start + self.max_tokens)
                out[rows] = self.model.fuse(pooled2[rows], pooled1[rows]).cpu().numpy()
        out[(s2.counts == 0) & (s1.counts == 0)] = np.nan
        return out

    def _pool(self, branch: FrozenBranch, series: Series) -> Float[Tensor, "n d"]:
        pooled = branch.unobserved.repeat(len(series), 1)
        for chunk in pack(series.offsets, self.ladder, self.max_tokens):
            values = torch.from_numpy(series.values[chunk.index]).to(self.device)
            doy = torch.from_numpy(series.doy[chunk.index].astype(np.int64)).to(self.device)
            pooled[torch.from_numpy(chunk.rows).to(self.device)] = branch(values, doy, chunk.runs)
        return pooled
