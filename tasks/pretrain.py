"""Pretrain the teacher: Barlow Twins on two sparse views of a year, under DeepSpeed.

Each step draws one view length; both views of a d-pixel are random subsets of its observations, a
whole sensor is hidden now and then, and a third pass asks that a mixed input projects to the mix.
The projector is thrown away. What a training leaves is the checkpoint that scored best on labelled
ground: the loss is recorded and never selects anything (finding F1).
"""

import math
import os
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from models.buckets import ladder
from models.collective import world_size
from models.diagnostics import diagnose
from models.encode import Encoder
from models.encoder import recompute_layers
from models.hashing import hash_u64, uniform
from models.initialisation import initialise
from models.pools import scales
from models.pretraining import Losses, TeacherWithProjector, split_pair
from models.replay import replay
from models.stages import alone, whole
from models.training_cost import StepCost, pretraining_axis, pretraining_cost
from tasks.packing.normalisation import resolve
from tasks.params import Params
from tasks.settings.training import PretrainParams
from tasks.stage import Stage, run_stage, stage_main
from tasks.streaming.windows import Source
from tasks.tracked_models import CHECKPOINT_TAG
from tasks.training.assessing import rebuilt
from tasks.training.held_out import HeldOut, read_held_out
from tasks.training.inputs import open_parent, view_inputs
from tasks.training.launch import Job, run_training, train_as_worker
from tasks.training.launcher import JOB
from tasks.training.objective import Batch, Objective, Work
from tasks.training.probe import Probe
from tasks.training.probing import open_probe, prepare_probe
from tasks.training.result import Result
from tasks.workspace import Workspace

_MIX = 0x4D4958  # keeps the mixing draw apart from the view draws


class TeacherObjective:
    """Barlow Twins with mix-up consistency. Source: TESSERA v2, section 4."""

    def __init__(self, job: Job, params: PretrainParams) -> None:
        self.params, self._work = params, Path(job.work)
        self.source = Source(open_parent(job, "pack", "dpixels"))
        self.normalisation = resolve(params.normalisation, job.parent("pack"))
        self.scales = scales(self.normalisation)
        model = self._build(mixup_weight=params.mixup_weight)
        if params.execution.activation_checkpointing:
            recompute_layers(model)
        initialise(model, params.seed)
        self.module: nn.Module = model
        self.encoder: nn.Module = model.teacher

    @property
    def backward_passes(self) -> int:
        """One; in a replay as many as a process has micro-batches."""
        execution = self.params.execution
        if not execution.replay:
            return 1
        return math.ceil(self.params.batch_size / world_size() / execution.micro_batch)

    def work(self, module: nn.Module, batch: Batch) -> Work:
        """Return the loss over the global batch and its parts."""
        device = next(module.parameters()).device
        view_a, view_b = (
            view_inputs(
                *(batch.parts, which, batch.view_length, self.scales),
                dropout=self.params.modality_dropout,
                device=device,
            )
            for which in (0, 1)
        )
        run = partial(module, alpha=self._share(batch))
        if self.params.execution.replay:
            batches = split_pair((view_a, view_b), self.params.execution.micro_batch)
            losses, rows, terms = replay(run, batches)
            embedding = torch.cat([views[0] for views in rows])
        else:
            losses = run((view_a, view_b), whole)
            terms, embedding = iter([losses.loss]), losses.embedding
        numbers = _numbers(losses) | {"view_length": float(batch.view_length)}
        numbers |= diagnose(batch.step, embedding, losses.twins.correlation)
        return Work(losses.loss.detach(), numbers, terms, self._cost(batch))

    def assess(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Score the teacher downstream, and the loss on held-out d-pixels."""
        params, device = self.params, next(self.module.parameters()).device
        model = rebuilt(partial(self._build, mixup_weight=0.0), weights, device)
        buckets = ladder(params.ladder.step, params.ladder.largest)
        encoder = Encoder(model.teacher, self.normalisation, buckets)
        numbers = {} if self._probe is None else self._probe.score(encoder)
        held = self._held_out
        return numbers if held is None else numbers | self._held_out_loss(model, held)

    @cached_property
    def _probe(self) -> Probe | None:
        return open_probe(self._work)

    @cached_property
    def _held_out(self) -> HeldOut | None:
        return read_held_out(self.source, self.params)

    def _build(self, *, mixup_weight: float) -> TeacherWithProjector:
        params = self.params
        return TeacherWithProjector(
            params.architecture,
            projector=(params.projector.width, params.projector.layers),
            off_diagonal_weight=params.off_diagonal_weight,
            mixup_weight=mixup_weight,
            prefixes=params.prefix_losses,
            rows_at_once=params.execution.micro_batch,
        )

    def _held_out_loss(self, model: TeacherWithProjector, held: HeldOut) -> dict[str, float]:
        """Return Barlow Twins on two views of the held-out rows, a coordinate of the projections.

        Decision: the views have the longest of the drawn lengths, and no sensor is hidden. The sum
        over coordinates is divided by their number: the paper compares losses of projectors of
        several widths and does not say how.
        """
        length, device = max(self.params.view_lengths), next(model.parameters()).device
        draw = partial(view_inputs, [held.part], dropout=0.0, device=device)
        pair = tuple(draw(view=view, length=length, scales=self.scales) for view in (0, 1))
        with torch.no_grad():
            losses: Losses = model(pair, alone, alpha=1.0)
        return {"held_out_loss": float(losses.twins.loss) / self.params.projector.width}

    def _cost(self, batch: Batch) -> StepCost:
        """Return what a step takes; useful work is the same in a replay, which does more."""
        params = self.params
        return pretraining_cost(
            params.architecture,
            (params.projector.width, params.projector.layers),
            len(batch),
            batch.view_length,
            mixup=params.mixup_weight > 0,
            prefixes=params.prefix_losses,
        )

    def _share(self, batch: Batch) -> float:
        """Draw the share of view a in the mixed one, uniform as Beta(1, 1) is."""
        return float(uniform(hash_u64(self.params.seed, _MIX, batch.step)))


def _numbers(losses: Losses) -> dict[str, float]:
    numbers = {"barlow_twins": float(losses.twins.loss.detach())}
    if losses.twins.mixup is not None:
        numbers["mixup"] = float(losses.twins.mixup.detach())
    prefixes = {f"twins_{k}": float(t.loss.detach()) for k, t in losses.prefixes.items()}
    return numbers | prefixes


def _compute_axis(section: PretrainParams) -> int:
    """Return the compute of the whole training. Source: TESSERA v2, equation 1."""
    projector = (section.projector.width, section.projector.layers)
    return pretraining_axis(section.architecture, projector, section.steps * section.batch_size)


def pretrain(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    section = params.pretrain

    def body(stage: Stage) -> None:
        build: type[Objective] = TeacherObjective
        prepare_probe(stage, params)
        _, records = run_training("tasks.pretrain", build, stage, section)
        stage.tracker.log_metrics([{"compute_axis": _compute_axis(section)}])
        digest = Result(stage, section, section.architecture, records).write()
        stage.tracker.log_model(
            stage.build, name="teacher", tags={CHECKPOINT_TAG: digest, "kind": "teacher"}
        )

    run_stage(
        "pretrain",
        body,
        workspace=workspace,
        section=section,
        parents=("ingest", "pack"),
        also=params.probe_settings,
    )


if __name__ == "__main__":
    if JOB in os.environ:
        train_as_worker(TeacherObjective, PretrainParams)
    else:
        stage_main(pretrain)
