"""The student: the encoder that makes embedding maps, 128 numbers usable by prefixes.

The one idea: two sensor branches, joined and reduced to 128 coordinates; the first 16, 32 and 64
are embeddings in their own right because distillation put a linear head on each prefix. The heads
are a training scaffold and are not part of the student.

It deliberately has the released parameter names and nothing else, so weights go both ways.

Axis words: `b` batch, `t` time (tokens, may differ between sensors), `band`, `k` a prefix length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, cat, nn

from models.architecture import StudentConfig
from models.bands import S1_BANDS, S2_BANDS
from models.encoder import LayerStack, PostNormLayer, QkNormLayer, SensorBranch, reducer

if TYPE_CHECKING:
    from jaxtyping import Float

STUDENTS: dict[str, StudentConfig] = {
    "N": StudentConfig(latent=36, layers=2, heads=4, feedforward=384),
    "S": StudentConfig(latent=64, layers=4, heads=4, feedforward=1024),
    "M": StudentConfig(latent=120, layers=2, heads=4, feedforward=3840),
    "L": StudentConfig(latent=160, layers=4, heads=4, feedforward=2560),
}
"""The family: 1,066,402 / 7,112,322 / 21,028,930 / 43,831,170 parameters.

Decision: the paper names sizes only. S and L are the released architectures; N and M are the ones
of several that fit the published counts.
"""


class Student(nn.Module):
    """Two plain (or QK-norm) post-LN branches, joined by a two-layer head."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.s2_backbone = _branch(len(S2_BANDS), config)
        self.s1_backbone = _branch(len(S1_BANDS), config)
        self.dim_reducer = reducer(config.width, config.repr_dim)

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
        embedding: Tensor = self.dim_reducer(cat((s2, s1), dim=-1))
        return embedding


class PrefixHeads(nn.Module):
    """One linear map from each prefix to the teacher's space; used in distillation only.

    Source: TESSERA v2, section 5 (the maps h_k of equation 2).
    """

    def __init__(self, prefixes: tuple[int, ...], target_dim: int) -> None:
        super().__init__()
        self.prefixes = prefixes
        self.heads = nn.ModuleList([nn.Linear(k, target_dim) for k in prefixes])

    def forward(self, embedding: Float[Tensor, "b repr"]) -> list[Float[Tensor, "b target"]]:
        """Return the reconstruction of the target from each prefix, shortest prefix first.

        Raises:
            ValueError: if the embedding is shorter than the longest prefix.
        """
        if embedding.shape[-1] < self.prefixes[-1]:
            raise ValueError(
                f"expected at least {self.prefixes[-1]} coordinates, got {embedding.shape[-1]}"
            )
        pairs = zip(self.prefixes, self.heads, strict=True)
        return [head(embedding[..., :k]) for k, head in pairs]


def _branch(num_bands: int, config: StudentConfig) -> SensorBranch:
    width, heads, feedforward = config.width, config.heads, config.feedforward
    layers: list[nn.Module]
    if config.qk_norm:
        layers = [
            QkNormLayer(width, heads, feedforward, pre_norm=False) for _ in range(config.layers)
        ]
        return SensorBranch(num_bands, width, nn.Sequential(*layers))  # released names: no "layers"
    layers = [PostNormLayer(width, heads, feedforward) for _ in range(config.layers)]
    return SensorBranch(num_bands, width, LayerStack(layers))
