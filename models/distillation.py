"""What distillation trains: a student with its prefix heads, from observations to the loss.

The one idea: a batch reaches each sensor's branch in groups of rows with as many slots. A random
view is one group; a full view is a group a bucket, as in use, so that no row is filled up to the
longest series of its batch.

It deliberately draws nothing and reads no targets.

Axis words: `b` rows of the batch, `r` rows of a group, `slot` places of a view, `band`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.architecture import StudentConfig
from models.encoder import SensorBranch
from models.losses import prefix_distillation
from models.student import PrefixHeads, Student

if TYPE_CHECKING:
    from jaxtyping import Float

Group = tuple[Tensor, Tensor, Tensor]
"""Rows of a batch with as many slots: their numbers (r), values (r, slot, band), days (r, slot)."""

Groups = Sequence[Group]
"""One sensor's view of a batch; every row is in one group."""


class StudentWithHeads(nn.Module):
    """Student and prefix heads as one module, so that one engine shards both."""

    def __init__(self, config: StudentConfig, target_dim: int) -> None:
        super().__init__()
        self.student = Student(config)
        self.heads = PrefixHeads(config.prefixes, target_dim)

    def forward(
        self, s2: Groups, s1: Groups, target: Float[Tensor, "b target"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b repr"]]:
        """Return the distillation loss of a batch and its embeddings, these without a graph.

        Source: TESSERA v2, equation 2.
        """
        student = self.student
        pooled = _pool(student.s2_backbone, s2), _pool(student.s1_backbone, s1)
        embedding = student.fuse(*pooled)
        return prefix_distillation(embedding, self.heads, target), embedding.detach()


def _pool(branch: SensorBranch, groups: Groups) -> Float[Tensor, "b d"]:
    pooled = torch.cat([branch(values, days) for _, values, days in groups])
    if len(groups) == 1:
        return pooled
    place = torch.argsort(torch.cat([rows for rows, _, _ in groups]))
    return pooled[place]
