"""Settings of what is made of trained models: targets, scores, the gate, tiles."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.settings.section import Positive, Section, Threads


class CacheTargetsParams(Section):
    """One pass of the frozen teacher over all shards.

    What says where the teacher lies, how many threads run, or only opens a gate, changes no byte, so
    the manifest leaves it out.
    """

    teacher: Annotated[str, Field(exclude=True)]
    """Whose embeddings: empty for the pretrained teacher, else a checkpoint folder, a released
    ``.pt`` file, or ``models:/name@alias``; paths relative to the project or absolute."""
    teacher_digest: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
    """What such a teacher must hash to: its name alone could mean another one tomorrow."""
    dtype: Literal["float16", "float32"]
    """Of the targets on the disk."""
    device: Literal["cpu", "cuda"]
    max_tokens: Positive
    threads: Annotated[int, Field(ge=1, le=256, exclude=True)]
    min_effective_rank: Annotated[float, Field(ge=0, exclude=True)]
    """Directions that the targets must at least spread over; see ``tasks.targets.spread``."""
    max_dead_share: Annotated[float, Field(ge=0.0, le=1.0, exclude=True)]
    """Of the coordinates, how many may be the same for every d-pixel."""

    @model_validator(mode="after")
    def _digest_of_a_teacher(self) -> Self:
        if self.teacher_digest and not self.teacher:
            raise ValueError(f"teacher_digest {self.teacher_digest[:12]} without a teacher")
        return self


class ProbeParams(Section):
    """The cheap downstream score that ranks checkpoints while a training runs."""

    seed: int
    share: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Of the groups of labelled ground, how many are the probe's; the evaluation leaves them out."""
    folds: Annotated[int, Field(ge=2)]
    max_dpixels: Positive
    """Labelled d-pixels a task."""
    min_dpixels: Positive
    """Of a class; rarer ones are left out."""
    bootstrap: Positive


class EvaluateParams(Section):
    """Downstream scores on labels of the archive."""

    seed: int
    prefixes: tuple[Positive, ...]
    rank_prefix: Positive
    """Prefix length whose composite ranks the students."""
    folds: Annotated[int, Field(ge=2)]
    block_px: Positive
    max_dpixels: Positive
    min_dpixels: Positive
    bootstrap: Positive
    max_tokens: Positive
    threads: Threads

    @model_validator(mode="after")
    def _rank_prefix_is_scored(self) -> "EvaluateParams":
        if self.rank_prefix not in self.prefixes:
            raise ValueError(f"rank_prefix {self.rank_prefix} is not one of {self.prefixes}")
        return self


class ControlsParams(Section):
    """The control experiments, run on demand; see ``tasks.controls``."""

    size: str
    """The student of ``distill.students`` that they are about."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """Of the trainings, each of which is repeated; with ``distill.seed`` the pipeline's student is
    one of them and is not trained again."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} are not all different")
        return self


class PromoteParams(Section):
    """The gate in front of the staging alias."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    """Name of the registered model."""
    margin: Annotated[float, Field(ge=0)]


class ExportParams(Section):
    """Embedding tiles."""

    dim: Positive
    max_tokens: Positive
    threads: Threads
