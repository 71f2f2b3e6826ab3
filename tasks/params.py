"""A typed, frozen view of ``params.yaml``; the only reader and writer of that file.

Each section belongs to the stage of the same name. Unknown keys are refused, so a misspelt setting
never passes silently, and derived numbers are properties, never second settings.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from models.architecture import StudentConfig, TeacherConfig
from tasks.errors import ParamsError
from tasks.files import write_bytes

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Threads = Annotated[int, Field(ge=1, le=256)]


class Section(BaseModel):
    """A section of the file: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SampleParams(Section):
    """The simulated archive that ``data.dvc`` pins."""

    seed: int
    num_tiles: Positive
    tile_size_px: Positive
    years: tuple[int, ...]


class IngestParams(Section):
    """Where the raw archive lies."""

    archive: str
    """Folder of tile folders, relative to the project or absolute."""


class ValidateParams(Section):
    """Limits that need a number; the other expectations are facts of the format."""

    min_optical_dates: Positive
    """Sentinel-2 dates of a tile and year."""
    min_radar_dates: Annotated[int, Field(ge=0)]
    """Sentinel-1 passes of a tile and year, both orbits together; 0 admits tiles without radar."""
    max_undetected_cloud: Share
    """Of the observations marked clear, how many may look like thick cloud."""
    min_clear_share: Share
    """Of all optical observations of a tile, how many must be marked clear."""
    max_dark_dn: Annotated[float, Field(gt=0)]
    """Darkest 2 % of the darkest band, of a tile and of most of its dates, where there is vegetation
    or water, or a step between dates; ground that is bright by itself is not judged."""
    max_order_gain: Annotated[float, Field(gt=0)]
    """How much better another band order may explain a tile; see ``tasks.validation.band_order``."""
    reference: Annotated[str, Field(exclude=True)]
    """``statistics.json`` of an earlier corpus (or its folder), relative to the project or absolute,
    that the packed one is held against; empty for none. It and the limit open a gate and change no
    byte, so the manifests leave them out: nothing is packed again for another limit."""
    max_drift: Annotated[float, Field(ge=0.0, le=1.0, exclude=True)]
    """Largest Kolmogorov-Smirnov distance from the reference; see ``tasks.validation.drift``."""


class PackParams(Section):
    """Shards of d-pixels, shuffled across tiles."""

    seed: int
    rows_per_shard: Positive
    block_rows: Positive
    """Rows of a block, the piece that training reads and checks at once."""
    min_s2: Annotated[int, Field(ge=0)]
    """Fewest optical observations of a d-pixel; 0 accepts an absent sensor."""
    min_s1: Annotated[int, Field(ge=0)]
    """Fewest radar observations, both orbits together."""
    memory_mb: Annotated[int, Field(ge=4, exclude=True)]
    """What the shuffle may hold, beside the program itself. It and the threads change no byte, so the
    manifest leaves them out, and a killed run goes on with others."""
    threads: Annotated[int, Field(ge=1, le=256, exclude=True)]
    """Shards made at once, as far as the memory allows."""
    holdout: str
    """Labels that are kept for evaluation: an archive, or a Parquet table with lon, lat and year,
    relative to the project or absolute; empty for none. See ``tasks.validation.held_out``."""
    holdout_block_m: Annotated[int, Field(ge=10)]
    """Side of the blocks of ground that are left out around labels, in metres."""
    holdout_years: Literal["same", "any"]
    """Whether a block is left out in the label's year alone, or in every year."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.rows_per_shard % self.block_rows:
            raise ValueError(
                f"rows_per_shard {self.rows_per_shard} is no multiple of block_rows {self.block_rows}"
            )
        return self


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
    """Steps that loss and gradient norm are compared with."""
    sigmas: Annotated[float, Field(gt=0)]
    """Standard deviations above their mean from which a step is skipped."""
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


class Params(Section):
    """The whole file."""

    sample: SampleParams
    ingest: IngestParams
    validate_: Annotated[ValidateParams, Field(alias="validate")]
    pack: PackParams
    pretrain: PretrainParams
    cache_targets: CacheTargetsParams
    distill: DistillParams
    probe: ProbeParams
    evaluate: EvaluateParams
    controls: ControlsParams
    promote: PromoteParams
    export: ExportParams

    @property
    def probe_settings(self) -> dict[str, Any]:
        """What a training's manifest says of the probe that selects its checkpoint."""
        own = self.probe.model_dump(mode="json") | {"block_px": self.evaluate.block_px}
        return {"probe": own}

    @property
    def probing(self) -> EvaluateParams:
        """How the probe's tasks are drawn: as the evaluation's, in the probe's sizes."""
        return self.evaluate.model_copy(update=self.probe.model_dump(exclude={"share"}))


def read_params(path: Path) -> Params:
    """Read and check a parameters file.

    Raises:
        ParamsError: Missing, not YAML, or a value or key that the contract does not allow.
    """
    try:
        content = YAML(typ="safe").load(path.read_text())
        return Params.model_validate(content)
    except OSError as error:
        found, mend = error.strerror or str(error), "Restore it: git checkout -- params.yaml"
    except YAMLError as error:
        found, mend = f"not YAML: {error}", "Mend the line that is named."
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        mend = "Mend the settings that are named."
    raise ParamsError("valid settings", found=found, where=str(path), mend=mend)


def set_archive(path: Path, archive: str) -> None:
    """Point ``ingest.archive`` at a folder, keeping every comment of the file.

    Raises:
        ParamsError: The file is not valid before or after the change.
    """
    read_params(path)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    content = yaml.load(path.read_text())
    if content["ingest"]["archive"] == archive:
        return
    content["ingest"]["archive"] = archive
    aside = path.with_name(".params.yaml.new")
    with aside.open("w") as stream:
        yaml.dump(content, stream)
    read_params(aside)
    aside.replace(path)


def use_params(chosen: Path, path: Path) -> None:
    """Make another file's settings the workspace's ``params.yaml``.

    Raises:
        ParamsError: The chosen file is not valid; the workspace's file is left as it was.
    """
    read_params(chosen)
    if chosen.resolve() != path.resolve():
        write_bytes(path, chosen.read_bytes())
