"""What a training step costs: tokens, useful arithmetic, and the paper's compute axis.

The one idea: the useful operations of a step follow from the configuration, the rows and the length
of the views. They are those of one forward and one backward pass: what is computed again to save
memory (activation checkpointing, replay, attention's backward) is work, but not useful work, so a
utilisation by these numbers falls where it is done.

A multiply-add counts as two operations; norms, activations, softmax and the optimiser are left out,
as in `models.cost`. A backward pass multiplies twice for each product of the forward pass, once for
each of its factors; the first map of a branch multiplies once, as nothing asks for the slope of an
observation.

It deliberately measures nothing: no clock, no device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.architecture import StudentConfig, TeacherConfig, require_positive
from models.bands import S1_BANDS, S2_BANDS
from models.cost import ModelConfig, Observations, count_flops, count_parameters
from models.teacher import Projector

REFERENCE_LENGTH = 240
"""Nominal length of a year, L_ref. Source: TESSERA v2, equation 1."""

_FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True, slots=True)
class StepCost:
    """Work of a training step on one process."""

    dpixels: int
    """Rows of the batch; each counts once, whatever the number of its views."""
    tokens: int
    """Observations that the encoder read, of both sensors and all views."""
    encoder: int
    """Useful floating-point operations of the encoder, forward and backward."""
    head: int
    """Those of the projector or of the prefix heads."""
    loss: int
    """Those of the products that the loss is made of."""

    @property
    def flops(self) -> int:
        """Useful floating-point operations together."""
        return self.encoder + self.head + self.loss

    def __add__(self, other: StepCost) -> StepCost:
        return StepCost(
            self.dpixels + other.dpixels,
            self.tokens + other.tokens,
            self.encoder + other.encoder,
            self.head + other.head,
            self.loss + other.loss,
        )


def pretraining_cost(
    config: TeacherConfig,
    projector: tuple[int, int],
    rows: int,
    length: int,
    *,
    mixup: bool,
    prefixes: tuple[int, ...] = (),
) -> StepCost:
    """Return the cost of a Barlow Twins step.

    Args:
        config: The encoder.
        projector: Width and number of linear maps.
        rows: D-pixels of this process.
        length: Observations of each sensor in a view.
        mixup: Whether a third, mixed view is encoded; its term is two more products.
        prefixes: Lengths that have a projector and a loss of their own, on two views.
    """
    views, products = (3, 3) if mixup else (2, 1)
    maps = views * _projector(config.repr_dim, projector)
    maps += 2 * sum(_projector(k, projector) for k in prefixes)
    correlations = (products + len(prefixes)) * projector[0] ** 2
    return StepCost(
        dpixels=rows,
        tokens=views * rows * 2 * length,
        encoder=views * rows * _encoder(config, Observations(length, length)),
        head=_FORWARD_AND_BACKWARD * rows * 2 * maps,
        loss=_FORWARD_AND_BACKWARD * rows * 2 * correlations,
    )


def distillation_cost(
    config: StudentConfig, target_dim: int, rows: int, lengths: Observations
) -> StepCost:
    """Return the cost of a step of prefix distillation on cached targets.

    Args:
        config: The student.
        target_dim: Width of the targets.
        rows: D-pixels of this process, all of the same lengths; costs of several lengths add up.
        lengths: Tokens of each sensor, padding included.
    """
    maps = sum(config.prefixes) * target_dim
    return StepCost(
        dpixels=rows,
        tokens=rows * (lengths.num_s2 + lengths.num_s1),
        encoder=rows * _encoder(config, lengths),
        head=_FORWARD_AND_BACKWARD * rows * 2 * maps,
        loss=0,
    )


def compute_axis(num_dpixels: int, encoder_parameters: int, projector_parameters: int) -> int:
    """Return C = 12 D (N_enc L_ref + N_proj), the compute of a pretraining.

    It is nominal: every token is charged with both branches, every view with a year of 240
    observations, and the products of attention and loss are left out. `StepCost` counts what a step
    does.

    Raises:
        ValueError: A number is not positive.

    Source: TESSERA v2, equation 1.
    """
    require_positive("num_dpixels", num_dpixels)
    require_positive("encoder_parameters", encoder_parameters)
    require_positive("projector_parameters", projector_parameters)
    per_view = encoder_parameters * REFERENCE_LENGTH + projector_parameters
    return 12 * num_dpixels * per_view


def pretraining_axis(config: TeacherConfig, projector: tuple[int, int], num_dpixels: int) -> int:
    """Return the compute axis of a pretraining of this shape over so many d-pixels."""
    with torch.device("meta"):
        head = Projector(config.repr_dim, *projector)
    num_head = sum(parameter.numel() for parameter in head.parameters())
    return compute_axis(num_dpixels, count_parameters(config), num_head)


def _projector(repr_dim: int, projector: tuple[int, int]) -> int:
    """Multiply-adds of one projection, forward."""
    width, layers = projector
    return repr_dim * width + (layers - 1) * width * width


def _encoder(config: ModelConfig, lengths: Observations) -> int:
    """Operations of one d-pixel, forward and backward."""
    values = max(lengths.num_s2, 1) * len(S2_BANDS) + max(lengths.num_s1, 1) * len(S1_BANDS)
    slopes_of_observations = 2 * values * config.width
    return _FORWARD_AND_BACKWARD * count_flops(config, lengths) - slopes_of_observations
