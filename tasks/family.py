"""Every preset, students then teachers, with what it costs to hold, to run and to keep.

The one idea: the choice of a size is a choice of costs, so all of them stand in one table for one
kind of d-pixel.

It deliberately reads no workspace and knows no scores: how good a trained model is, its evaluation
says.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from models.cost import (
    TYPICAL,
    ModelConfig,
    Observations,
    activation_bytes,
    count_flops,
    count_parameters,
    embedding_bytes,
    global_pass_h100_years,
    weight_bytes,
)
from models.encode import CPU_TOKENS
from models.student import STUDENTS
from models.teacher import TEACHERS

_HEADING = (
    f"{'':<22}{'GFLOP':>10}{'weights MB':>17}{'memory':>9}  "
    f"{'bytes an embedding':<27}{'H100-':>7}\n"
    f"{'preset':<8}{'parameters':>14}{'a d-pixel':>10}{'float32':>9}{'bf16':>8}{'MB':>9}  "
    f"{'(prefix:bytes)':<27}{'years':>7}"
)


@dataclass(frozen=True, slots=True)
class Member:
    """One preset and its costs."""

    preset: str
    """Its name, e.g. ``M`` or ``2b``."""
    role: str
    """``student`` or ``teacher``."""
    num_parameters: int
    """Parameters of the encoder, without heads that only training needs."""
    observations: Observations
    """The d-pixel that ``flops`` is about."""
    flops: int
    """Floating-point operations of one embedding."""
    float32_bytes: int
    """Bytes of the weights in float32."""
    bfloat16_bytes: int
    """Bytes of the weights in bfloat16."""
    memory_bytes: int
    """Bytes of float32 weights and of the activations of a branch for one chunk of a CPU."""
    embedding_bytes: dict[int, int]
    """Bytes of one quantised embedding by prefix length."""
    h100_years: float
    """H100-years of one pass over the planet, by the paper's law."""

    def to_json(self) -> dict[str, Any]:
        """Return the row in plain JSON types."""
        return asdict(self) | {
            "embedding_bytes": {str(k): n for k, n in self.embedding_bytes.items()}
        }


def family(observations: Observations = TYPICAL) -> list[Member]:
    """Return a row for every preset: students, then teachers, each from small to large."""
    students = [_member("student", name, STUDENTS[name], observations) for name in STUDENTS]
    return students + [_member("teacher", name, TEACHERS[name], observations) for name in TEACHERS]


def render(members: Sequence[Member]) -> str:
    """Return the rows as a table for a terminal, and what its figures mean."""
    blocks = [_HEADING]
    for role in ("student", "teacher"):
        rows = [_line(member) for member in members if member.role == role]
        blocks.append("\n".join([f"{role}s", *rows]))
    return "\n\n".join([*blocks, _notes(members[0].observations)])


def _member(role: str, preset: str, config: ModelConfig, observations: Observations) -> Member:
    num_parameters = count_parameters(config)
    float32_bytes = weight_bytes(num_parameters, torch.float32)
    return Member(
        preset=preset,
        role=role,
        num_parameters=num_parameters,
        observations=observations,
        flops=count_flops(config, observations),
        float32_bytes=float32_bytes,
        bfloat16_bytes=weight_bytes(num_parameters, torch.bfloat16),
        memory_bytes=float32_bytes + activation_bytes(config),
        embedding_bytes=embedding_bytes(config),
        h100_years=global_pass_h100_years(num_parameters),
    )


def _line(member: Member) -> str:
    prefixes = " ".join(f"{k}:{n}" for k, n in member.embedding_bytes.items())
    megabytes = (member.float32_bytes / 1e6, member.bfloat16_bytes / 1e6, member.memory_bytes / 1e6)
    float32, bfloat16, memory = (f"{size:,.1f}" for size in megabytes)
    return (
        f"{member.preset:<8}{member.num_parameters:>14,}{member.flops / 1e9:>10.3f}"
        f"{float32:>9}{bfloat16:>8}{memory:>9}  {prefixes:<27}{member.h100_years:>7.2f}"
    )


def _notes(observations: Observations) -> str:
    return (
        f"GFLOP: {observations.num_s2} Sentinel-2 and {observations.num_s1} Sentinel-1"
        " observations, no padding; a multiply-add counts as two.\n"
        f"Memory: float32 weights and the activations of a branch for a chunk of"
        f" {CPU_TOKENS:,} tokens.\n"
        "A CPU holds a second, packed copy of the weights; the head and the runtime come on top.\n"
        "Bytes: int8 codes and a float32 scale; a teacher's embedding is usable at full"
        " length only.\n"
        "H100-years: one year of the planet by the law of the paper, 0.041 * N^1.03 (N in"
        " millions)."
    )
