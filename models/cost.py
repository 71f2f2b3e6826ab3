"""What a model costs: parameters, arithmetic, memory, bytes to keep, and a year of the planet.

The one idea: every figure follows from the configuration alone, so a size can be chosen before
anything is trained. Parameters are counted on the real module, built without memory; arithmetic is
a formula, because it depends on how often a place was observed.

Arithmetic is the floor that the packed encoder reaches (`models.packing`): the distinct
observations of a d-pixel and no padding. A multiply-add counts as two operations; norms, softmax
and other work on single numbers are left out, as is customary.

It deliberately measures nothing: no clock, no device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.architecture import StudentConfig, TeacherConfig, require_positive
from models.bands import S1_BANDS, S2_BANDS
from models.checkpoint import usable_prefixes
from models.encode import CPU_TOKENS
from models.student import Student
from models.teacher import Teacher

ModelConfig = StudentConfig | TeacherConfig

SCALE_BYTES = 4
"""Bytes of the float32 scale that is kept beside the int8 codes of an embedding."""


@dataclass(frozen=True, slots=True)
class Observations:
    """How often a d-pixel was observed in its year.

    Raises:
        ValueError: A number is negative, or both are zero: such a d-pixel has no embedding.
    """

    num_s2: int
    """Usable Sentinel-2 observations."""
    num_s1: int
    """Sentinel-1 observations of both orbits."""

    def __post_init__(self) -> None:
        if min(self.num_s2, self.num_s1) < 0 or self.num_s2 + self.num_s1 == 0:
            raise ValueError(
                "expected numbers of observations of at least 0 and one above 0, "
                f"got {self.num_s2} Sentinel-2 and {self.num_s1} Sentinel-1"
            )


TYPICAL = Observations(num_s2=63, num_s1=110)
"""The mean d-pixel of the planet's land: 173 observations a year.

Source: dClimate's account of its global run of TESSERA. Decision: 63 to 110 between the sensors, which the statement leaves open.
"""


def count_parameters(config: ModelConfig) -> int:
    """Return the number of parameters of the encoder; none of them is given memory."""
    with torch.device("meta"):
        model = Student(config) if isinstance(config, StudentConfig) else Teacher(config)
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(config: ModelConfig, observations: Observations = TYPICAL) -> int:
    """Return the floating-point operations that one embedding takes.

    A sensor without observations counts as the one zero token that stands for it.
    """
    s2 = _branch(config, len(S2_BANDS), max(observations.num_s2, 1))
    s1 = _branch(config, len(S1_BANDS), max(observations.num_s1, 1))
    return 2 * (s2 + s1 + _fusion(config) + _head(config))


def weight_bytes(num_parameters: int, dtype: torch.dtype) -> int:
    """Return the bytes of that many parameters.

    Raises:
        ValueError: The type is neither float32 nor bfloat16, or there is no parameter.
    """
    require_positive("num_parameters", num_parameters)
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"expected weights in float32 or bfloat16, got {dtype}")
    return num_parameters * dtype.itemsize


def activation_bytes(config: ModelConfig, num_tokens: int = CPU_TOKENS) -> int:
    """Return the most float32 activations that a branch holds at a time to encode one chunk.

    Either attention is the widest (its input, queries, keys, values, and the result before and
    after it is put in place: six widths, and two more for normalised queries and keys), or the
    feed-forward block is (the layer's input, its own input, the hidden layer and the result).
    Pooled vectors, the head, kernel workspaces and the runtime are not in this figure.

    Raises:
        ValueError: There is no token.
    """
    require_positive("num_tokens", num_tokens)
    has_qk_norm = isinstance(config, TeacherConfig) or config.qk_norm
    attention = (8 if has_qk_norm else 6) * config.width
    feedforward = 3 * config.width + config.feedforward
    return num_tokens * max(attention, feedforward) * torch.float32.itemsize


def embedding_bytes(config: ModelConfig) -> dict[int, int]:
    """Return, by usable prefix length, the bytes of one embedding: int8 codes and their scale."""
    return {k: k + SCALE_BYTES for k in usable_prefixes(config)}


def global_pass_h100_years(num_parameters: int) -> float:
    """Return the H100-years of embedding one year of the planet.

    Raises:
        ValueError: There is no parameter.

    Source: TESSERA v2, inference cost: 0.041 * N**1.03 with N in millions of parameters. The law
    was stated for 1 to 1000 million; beyond that it is an extrapolation.
    """
    require_positive("num_parameters", num_parameters)
    return float(0.041 * (num_parameters / 1e6) ** 1.03)


# The functions below count multiply-adds.


def _branch(config: ModelConfig, num_bands: int, num_tokens: int) -> int:
    width = config.width
    embedding = num_tokens * (num_bands * width + width * width)
    layers = config.layers * _layer(width, config.feedforward, num_tokens)
    pooling_scores = num_tokens * width
    return embedding + layers + pooling_scores


def _layer(width: int, feedforward: int, num_tokens: int) -> int:
    linear_maps = num_tokens * (4 * width * width + 2 * width * feedforward)
    attention = 2 * num_tokens * num_tokens * width
    return linear_maps + attention


def _fusion(config: ModelConfig) -> int:
    if isinstance(config, StudentConfig):
        return 0
    return config.fusion_layers * _layer(config.width, 2 * config.width, 2)


def _head(config: ModelConfig) -> int:
    hidden = 4 * config.width
    return 2 * config.width * hidden + hidden * config.repr_dim
