"""The teacher: a large encoder pretrained by Barlow Twins, frozen, and used as a target.

The one idea: per-sensor branches as in the student, but pre-LN with QK-norm so that width scales,
and a small fusion Transformer over the two sensor tokens. Its output is wider than the student's on
purpose, leaving room for compression, and is not ordered: prefixes of it mean nothing.

It deliberately does not contain the projector, which only pretraining needs.

Axis words: `b` batch, `t` time (tokens), `band`, `d` branch width, `repr` embedding coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.architecture import TeacherConfig
from models.bands import S1_BANDS, S2_BANDS
from models.encoder import LayerStack, QkNormLayer, SensorBranch, reducer
from models.stages import Staged, statistics, whole

if TYPE_CHECKING:
    from jaxtyping import Float

TEACHERS: dict[str, TeacherConfig] = {
    "demo": TeacherConfig(latent=16, layers=2, heads=4, feedforward=256, repr_dim=192),
    "small": TeacherConfig(latent=64, layers=4, heads=4, feedforward=1024, repr_dim=256),
    "medium": TeacherConfig(latent=112, layers=4, heads=4, feedforward=1792, repr_dim=448),
    "base": TeacherConfig(latent=208, layers=4, heads=4, feedforward=3328, repr_dim=768),
    "large": TeacherConfig(latent=368, layers=4, heads=4, feedforward=5888, repr_dim=768),
    "1b": TeacherConfig(latent=768, layers=4, heads=4, feedforward=9216, repr_dim=768),
    "2b": TeacherConfig(latent=1024, layers=4, heads=4, feedforward=16384, repr_dim=1024),
}
"""Presets: `demo` trains on a CPU, `2b` is the released teacher (2,064,266,242 parameters).

Decision: the paper gives "1B", four layers and 768 coordinates only; `1b` is the released shape at
that output width, with the feed-forward width that brings it nearest to a billion parameters.

Decision: the paper's scaling study has encoders of 7 to 278 million parameters and names no shape.
`small`, `medium`, `base` and `large` cross that range in steps of about three (8.3, 25, 87 and 269
million): the released shape (four layers, four heads, a feed-forward block of four widths) at
widths that are multiples of 64. Their embedding has the paper's 768 coordinates, or as many as the
branch is wide where that is less.
"""


class Teacher(nn.Module):
    """Two pre-LN QK-norm branches, a fusion Transformer over their two tokens, and a head."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.s2_backbone = _branch(len(S2_BANDS), config)
        self.s1_backbone = _branch(len(S1_BANDS), config)
        self.fusion_modality_embed = nn.Parameter(torch.zeros(2, width))
        self.fusion_transformer = LayerStack(
            [
                QkNormLayer(width, config.fusion_heads, 2 * width, pre_norm=True)
                for _ in range(config.fusion_layers)
            ]
        )
        self.dim_reducer = reducer(width, config.repr_dim)

    def forward(
        self,
        s2: Float[Tensor, "b t2 band2"],
        s2_doy: Float[Tensor, "b t2"],
        s1: Float[Tensor, "b t1 band1"],
        s1_doy: Float[Tensor, "b t1"],
    ) -> Float[Tensor, "b repr"]:
        """Return embeddings of mean 0 and variance 1 over their coordinates.

        Args:
            s2: z-scored Sentinel-2 observations, or one zero token where there is none.
            s2_doy: their days of year, raw.
            s1: z-scored Sentinel-1 observations, both orbits, or one zero token.
            s1_doy: their days of year, raw.
        """
        return self.fuse(self.s2_backbone(s2, s2_doy), self.s1_backbone(s1, s1_doy))

    def fuse(self, s2: Float[Tensor, "b d"], s1: Float[Tensor, "b d"]) -> Float[Tensor, "b repr"]:
        """Return the embedding of two pooled branch vectors (each branch may be run on its own)."""
        tokens = torch.stack((s2, s1), dim=1) + self.fusion_modality_embed
        embedding: Tensor = self.dim_reducer(self.fusion_transformer(tokens).flatten(1))
        return embedding


class GlobalBatchNorm(nn.Module):
    """Batch norm with the statistics of the global batch, a scale and a shift, and no memory.

    No running statistics: they would differ between ranks, most engines save rank 0's only, and a
    layer that exists in pretraining alone never needs them.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(
        self,
        x: Float[Tensor, "... b d"],
        mean: Float[Tensor, "... 1 d"],
        variance: Float[Tensor, "... 1 d"],
    ) -> Float[Tensor, "... b d"]:
        """Return x scaled to mean 0 and variance 1 over the global batch, then scaled and shifted.

        Args:
            x: this rank's rows.
            mean: of each column over the global batch, see `models.stages.statistics`.
            variance: likewise; that of the batch (biased).

        Raises:
            ValueError: if x does not have one column for each feature.
        """
        if x.shape[-1] != len(self.weight):
            raise ValueError(f"expected (batch, {len(self.weight)}), got {tuple(x.shape)}")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = (torch.rsqrt(variance + self.eps)).to(wide.dtype) * self.weight
        normal = torch.addcmul(self.bias, wide - mean.to(wide.dtype), scale)
        return normal.to(x.dtype)


class Projector(nn.Module):
    """The pretraining-only head between the teacher's embedding and the Barlow Twins loss.

    `layers` linear maps of output width `width`; a batch norm over the global batch and a ReLU
    follow each but the last. Decision: no map has a bias, because the batch norm, or the loss's own
    standardisation after the last one, would cancel it exactly.

    Source: TESSERA v2, section 4, "Architecture"; layer order as in TESSERA v1.
    """

    def __init__(self, repr_dim: int, width: int, layers: int) -> None:
        super().__init__()
        if min(repr_dim, width, layers) < 1:
            raise ValueError(f"expected sizes of at least 1, got {repr_dim}, {width}, {layers}")
        stack: list[nn.Module] = []
        for layer in range(layers - 1):
            stack += [nn.Linear(width if layer else repr_dim, width, bias=False)]
            stack += [GlobalBatchNorm(width), nn.ReLU(inplace=True)]
        stack += [nn.Linear(width if layers > 1 else repr_dim, width, bias=False)]
        self.net = nn.Sequential(*stack)

    def forward(self, embedding: Float[Tensor, "... b repr"]) -> Float[Tensor, "... b width"]:
        """Return the projections that the loss compares, each view with statistics of its own.

        On several processes every one must call this in the same order: it communicates.
        """
        return whole(self.stages(embedding))

    def stages(self, embedding: Float[Tensor, "... b repr"]) -> Staged[Tensor]:
        """Return the same in stages, one for each batch norm."""
        x = embedding
        for layer in self.net:
            if isinstance(layer, GlobalBatchNorm):
                mean, variance, _ = yield from statistics(x)
                x = layer(x, mean, variance)
            else:
                x = layer(x)
        return x


def _branch(num_bands: int, config: TeacherConfig) -> SensorBranch:
    layers: list[nn.Module] = [
        QkNormLayer(config.width, config.heads, config.feedforward, pre_norm=True)
        for _ in range(config.layers)
    ]
    return SensorBranch(num_bands, config.width, LayerStack(layers))
