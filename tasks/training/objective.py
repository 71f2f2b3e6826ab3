"""What is trained, seen from the loop that trains it.

The one idea: a step of an objective is a global loss and a few scalars whose gradients add up to
the loss's gradient. One scalar, the loss itself, where the whole batch fits; one for each
micro-batch where it does not. The loop differentiates them one after the other and knows nothing
else of what is trained.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from models.training_cost import StepCost
from tasks.streaming.stream import Part
from tasks.streaming.windows import Source


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step that this process works on."""

    step: int
    """Number of the batch: that of the step, as long as no batches were passed over."""
    parts: list[Part]
    """The rows, each with its observations and the seed of its draws."""
    view_length: int
    """Observations a view; equal on every process."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(len(part.at) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Work:
    """A step of an objective on this process."""

    loss: Tensor
    """The loss over the global batch, detached; equal on every process. It and the numbers are
    complete when the terms are used up."""
    numbers: Mapping[str, float]
    """What is recorded beside it; equal on every process."""
    terms: Iterator[Tensor]
    """Scalars whose gradients add up to that of the loss, each made when it is asked for. There are
    as many as ``Objective.backward_passes`` says."""
    cost: StepCost
    """What the step takes on this process, backward included."""


class Objective(Protocol):
    """What is trained, and how far from right it is."""

    module: nn.Module
    """All trainable parts; only ``encoder`` outlives the training."""
    encoder: nn.Module
    source: Source
    """The corpus."""

    @property
    def backward_passes(self) -> int:
        """Scalars that a step is differentiated in; equal on every process, and at every step."""
        ...

    def work(self, module: nn.Module, batch: Batch) -> Work:
        """Begin a step; ``module`` is the engine's form of ``self.module``."""
        ...

    def assess(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Score the encoder downstream; called on process 0 alone.

        Args:
            weights: Of the whole module.

        Returns:
            Numbers to record. ``probe``, where there is one, ranks the checkpoints: higher is
            better. Empty where nothing is labelled.
        """
        ...


def encoder_part(objective: Objective, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's weights, under its own names, of those of the whole module."""
    parts = objective.module.named_modules()
    name = next(name for name, part in parts if part is objective.encoder)
    begin = f"{name}." if name else ""
    return {key.removeprefix(begin): t for key, t in weights.items() if key.startswith(begin)}
