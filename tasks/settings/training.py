"""Settings of the two trainings, and of what they have in common."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from models.architecture import StudentConfig, TeacherConfig
from tasks.settings.section import Positive, Section, Share, Threads


class ProjectorParams(Section):
    """The head that Barlow Twins reads; thrown away after pretraining."""

    width: Positive
    layers: Annotated[int, Field(ge=2)]


class LadderParams(Section):
    """Bucket lengths ``step, 2 step, ... largest``."""

    step: Positive
    largest: Positive

    @model_validator(mode="after")
    def _whole_steps(self) -> Self:
        if self.largest % self.step:
            raise ValueError(f"largest {self.largest} is no multiple of step {self.step}")
        return self


class StreamParams(Section):
    """How a training goes through its shards; ``docs/streaming.md`` says how to choose."""

    lanes: Annotated[int, Field(ge=2)]
    """Walks through the corpus side by side; a batch takes as many rows of each."""
    window_blocks: Positive
    """Blocks of a lane among which its rows are shuffled; all lanes' are in memory."""
    on_damage: Literal["stop", "skip"]
    """Whether a block that cannot be read ends the run, or is skipped and recorded."""
    max_damaged_share: Share
    """With ``skip``: of all blocks, how many may be damaged before the run ends."""
    held_out_blocks: Annotated[int, Field(ge=0)]
    """Last blocks of the corpus that no step reads; the held-out loss is measured on them."""


class ExecutionParams(Section):
    """How a training is carried out, not what it computes: a run may go on with other values.

    Results agree to rounding; the manifests leave these settings out, provenance records them.
    """

    processes: Positive
    threads: Threads
    micro_batch: Annotated[int, Field(ge=0)]
    """D-pixels of one forward pass on a process; 0 for all its rows at once."""
    replay: bool
    """Keep the graph of one micro-batch only: embeddings first, then each micro-batch again with its
    gradient. The same computation in a small memory; a distillation, whose loss is a mean, needs no
    first pass."""
    activation_checkpointing: bool
    """Keep each layer's input only and compute the rest again in the backward pass."""
    deepspeed: str
    """DeepSpeed's file of sharding and communication, relative to the project or absolute."""
    checkpoint_every: Positive
    """Steps between checkpoints; a stop that is asked for makes one as well."""
    keep_last: Annotated[int, Field(ge=2)]
    """Checkpoints that are kept; the last but one is for the case that the last is damaged."""
    keep_every: Annotated[int, Field(ge=0)]
    """Steps whose multiples are kept for good; 0 for none."""


class GuardParams(Section):
    """When a step is not taken, and when the run goes back."""

    window: Annotated[int, Field(ge=8)]
    """Accepted steps whose losses a loss is compared with."""
    sigmas: Annotated[float, Field(gt=0)]
    """Standard deviations above their mean from which a loss has its step skipped."""
    patience: Positive
    """Steps skipped in a row after which the run goes back to its last checkpoint, past their data."""
    rollbacks: Annotated[int, Field(ge=0)]
    """How often a run may go back before it ends with an error."""


class TrainingParams(Section):
    """What teacher and student training have in common."""

    seed: int
    normalisation: str
    view_lengths: Annotated[tuple[Positive, ...], Field(min_length=1)]
    modality_dropout: Annotated[float, Field(ge=0.0, le=0.5)]
    """Chance of hiding each sensor; never both."""
    batch_size: Annotated[int, Field(ge=2)]
    """The global batch in d-pixels; every process count that divides it gives the same run."""
    steps: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    betas: tuple[Share, Share]
    """Decay of AdamW's two running means."""
    warmup_share: Share
    clip_norm: Annotated[float, Field(gt=0)]
    precision: Literal["float32", "bfloat16"]
    """Of matrix products, by autocast; weights, statistics and losses are float32 always."""
    probe_every: Annotated[int, Field(ge=0)]
    """Steps between downstream probes, which rank the checkpoints; 0 for the end alone."""
    guard: GuardParams
    stream: StreamParams
    execution: Annotated[ExecutionParams, Field(exclude=True)]

    @property
    def kept_steps(self) -> frozenset[int]:
        """Steps whose weights are part of the result, whatever they score."""
        return frozenset()

    def complete(self) -> dict[str, Any]:
        """Return all settings in plain JSON types, ``execution`` included."""
        execution = self.execution.model_dump(mode="json")
        return self.model_dump(mode="json") | {"execution": execution}

    @model_validator(mode="after")
    def _lanes_divide(self) -> "TrainingParams":
        lanes, processes = self.stream.lanes, self.execution.processes
        if lanes % (2 * processes):
            raise ValueError(
                f"stream.lanes {lanes} is not a multiple of twice the processes {processes}:"
                " each has an even number of lanes, for the pairs of mix-up"
            )
        if self.batch_size % lanes:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of stream.lanes {lanes}:"
                " a batch has as many rows of each lane"
            )
        return self


class PretrainParams(TrainingParams):
    """Barlow Twins on two sparse views."""

    architecture: TeacherConfig
    projector: ProjectorParams
    ladder: LadderParams
    """Buckets that the teacher is used with; stored in its checkpoint."""
    off_diagonal_weight: Annotated[float, Field(gt=0)]
    mixup_weight: Annotated[float, Field(ge=0)]
    prefix_losses: tuple[Positive, ...]
    """Prefixes of the embedding that get a Barlow Twins loss of their own. The paper finds that this
    does not order an embedding; it is here as a control experiment and empty otherwise."""

    @model_validator(mode="after")
    def _pairs_stay_together(self) -> Self:
        execution = self.execution
        if execution.replay and (execution.micro_batch < 2 or execution.micro_batch % 2):
            raise ValueError(
                f"execution.micro_batch {execution.micro_batch} is no even number of at least 2:"
                " execution.replay goes through a batch by micro-batches, and mix-up mixes pairs"
            )
        return self

    @model_validator(mode="after")
    def _prefixes_are_shorter(self) -> Self:
        if any(k >= self.architecture.repr_dim for k in self.prefix_losses):
            raise ValueError(
                f"prefix_losses {self.prefix_losses} are not all shorter than"
                f" architecture.repr_dim {self.architecture.repr_dim}"
            )
        return self


class DistillParams(TrainingParams):
    """Matryoshka students against the cached targets."""

    students: dict[str, StudentConfig]
    ladder: LadderParams
    full_view_share: Share
    """Of the steps, those in which students read all observations, in buckets as in use; in the
    others they read a random subset, whose length is drawn from ``view_lengths``."""
    early_share: Share
    """Of the steps, those before the early checkpoint; it is taken at the next probe."""

    @property
    def early_step(self) -> int:
        """Step of the early checkpoint."""
        if self.probe_every == 0:
            return self.steps
        probes = max(1, math.ceil(self.early_share * self.steps / self.probe_every))
        return min(self.steps, probes * self.probe_every)

    @property
    def kept_steps(self) -> frozenset[int]:
        """The early checkpoint and the last one."""
        return frozenset({self.early_step, self.steps})
