"""Distil a student: every prefix of its embedding reconstructs the cached teacher target.

The targets are read, never computed, so the compute goes into the student. Each prefix has a linear
head of its own; the heads are thrown away and the prefixes are what people use. What a training
leaves is the checkpoint that scored best on labelled ground, the early and the late one beside it.
"""

import argparse
import math
import os
from collections.abc import Iterator, Mapping
from functools import cached_property, reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.buckets import ladder
from models.collective import all_reduce_sum, world_size
from models.cost import Observations
from models.diagnostics import diagnose
from models.distillation import Groups, StudentWithHeads
from models.encode import Encoder
from models.encoder import recompute_layers
from models.hashing import hash_u64, uniform
from models.initialisation import initialise
from models.losses import prefix_cosines
from models.pools import scales as scales_of
from models.training_cost import StepCost, distillation_cost
from tasks.errors import ParamsError
from tasks.packing.normalisation import resolve
from tasks.params import Params
from tasks.settings.training import DistillParams
from tasks.stage import Stage, run_stage, stage_main
from tasks.streaming.stream import Part
from tasks.streaming.windows import Source
from tasks.tracked_models import CHECKPOINT_TAG
from tasks.training.assessing import rebuilt
from tasks.training.held_out import HeldOut, read_held_out
from tasks.training.inputs import (
    as_groups,
    full_inputs,
    full_lengths,
    micro_batches,
    open_parent,
    target_inputs,
    view_inputs,
)
from tasks.training.launch import Job, run_training, train_as_worker
from tasks.training.launcher import JOB
from tasks.training.objective import Batch, Objective, Work
from tasks.training.probe import Probe
from tasks.training.probing import open_probe, prepare_probe
from tasks.training.result import Result
from tasks.training.sharding import read_sharding
from tasks.workspace import Workspace, find_workspace

_FULL = 0x46554C4C  # keeps the draw of full views apart from those of lengths and rows


class StudentObjective:
    """Prefix distillation against cached targets. Source: TESSERA v2, section 5.

    Decision: the paper does not say what the student reads, while the target was made from all
    observations. Here each step draws whether it is all of them, in buckets as in use, or a random
    subset of a drawn length; ``docs/distillation.md`` has the measurement behind the default.
    """

    def __init__(self, job: Job, params: DistillParams) -> None:
        _require_equal_calls(params)
        self.params, self._work = params, Path(job.work)
        targets = open_parent(job, "cache_targets", "targets")
        self.source = Source(open_parent(job, "pack", "dpixels"), targets)
        self.normalisation = resolve(params.normalisation, job.parent("pack"))
        self.scales = scales_of(self.normalisation)
        self.config = params.students[_size(job.stage)]
        self.ladder = ladder(params.ladder.step, params.ladder.largest)
        self.target_dim = targets.width
        model = self._build()
        initialise(model, params.seed)
        if params.execution.activation_checkpointing:
            recompute_layers(model)
        self.module: nn.Module = model
        self.encoder: nn.Module = model.student

    @property
    def backward_passes(self) -> int:
        """As many as a process has micro-batches."""
        size = self.params.execution.micro_batch
        return math.ceil(self.params.batch_size / world_size() / size) if size else 1

    def work(self, module: nn.Module, batch: Batch) -> Work:
        """Begin a step: the loss is a mean over rows, so its terms are those of micro-batches.

        Loss and numbers are complete when the terms are used up.
        """
        full = self._is_full(batch)
        loss = torch.zeros((), device=next(module.parameters()).device)
        numbers = {"view_length": 0.0 if full else float(batch.view_length)}
        terms = self._terms(module, batch, full, loss, numbers)
        return Work(loss, numbers, terms, self._cost(batch, full))

    def assess(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Score the student downstream, and reconstruct held-out targets from full series."""
        student = rebuilt(self._build, weights, self.device)
        encoder = Encoder(student.student, self.normalisation, self.ladder)
        numbers = {} if self._probe is None else self._probe.score(encoder, self.config.prefixes)
        if (held := self._held_out) is None:
            return numbers
        embedding = torch.from_numpy(encoder.encode(held.dpixels)).to(self.device)
        with torch.no_grad():
            found = prefix_cosines(
                embedding, student.heads, target_inputs([held.part], self.device)
            )
        cosines = dict(zip(self.config.prefixes, found.mean(1).tolist(), strict=True))
        numbers |= {f"cosine_{k}": cosine for k, cosine in cosines.items()}
        return numbers | {"held_out_loss": sum(1 - cosine for cosine in cosines.values())}

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.module.parameters()).device

    @cached_property
    def _probe(self) -> Probe | None:
        return open_probe(self._work)

    @cached_property
    def _held_out(self) -> HeldOut | None:
        return read_held_out(self.source, self.params)

    def _build(self) -> StudentWithHeads:
        return StudentWithHeads(self.config, self.target_dim)

    def _is_full(self, batch: Batch) -> bool:
        """Draw whether the step's views are full; it is the same on every process."""
        draw = uniform(hash_u64(self.params.seed, _FULL, batch.step))
        return bool(draw < self.params.full_view_share)

    def _terms(
        self,
        module: nn.Module,
        batch: Batch,
        full: bool,
        loss: Tensor,
        numbers: dict[str, float],
    ) -> Iterator[Tensor]:
        """Yield each micro-batch's part of the mean; then fill in the global mean, and the numbers."""
        seen: list[Tensor] = []
        for piece in micro_batches(batch.parts, self.params.execution.micro_batch or len(batch)):
            target = target_inputs(piece, loss.device)
            mean, embedding = module(*self._views(piece, batch.view_length, full), target)
            term = mean * (len(target) / len(batch))
            loss += term.detach()
            seen.append(embedding)
            yield term
        loss.copy_(all_reduce_sum(loss) / world_size())
        numbers |= diagnose(batch.step, torch.cat(seen))

    def _views(self, parts: list[Part], length: int, full: bool) -> tuple[Groups, Groups]:
        scales, dropout, device = self.scales, self.params.modality_dropout, self.device
        if full:
            return full_inputs(parts, self.ladder, scales, dropout=dropout, device=device)
        view = view_inputs(parts, 0, length, scales, dropout=dropout, device=device)
        return as_groups(view)

    def _cost(self, batch: Batch, full: bool) -> StepCost:
        lengths = np.full((len(batch), 2), batch.view_length)
        if full:
            lengths = full_lengths(batch.parts, self.ladder, self.params.modality_dropout)
        pairs, rows = np.unique(lengths, axis=0, return_counts=True)
        return reduce(
            add,
            (
                distillation_cost(self.config, self.target_dim, n, Observations(*pair))
                for pair, n in zip(pairs.tolist(), rows.tolist(), strict=True)
            ),
        )


def _require_equal_calls(params: DistillParams) -> None:
    """Refuse full views under ZeRO 3 on several processes.

    A full view calls a branch once for each bucket, processes have different buckets, and stage 3
    gathers weights at every call: the processes would wait for each other for ever.
    """
    file = params.execution.deepspeed
    # A launcher's processes are known to it alone, and have not met yet.
    processes = int(os.environ.get("WORLD_SIZE", params.execution.processes))
    if not params.full_view_share or processes == 1:
        return
    if read_sharding(find_workspace().root / file).stage == 3:
        raise ParamsError(
            "ZeRO 1 or 2 where steps have full views on several processes",
            found=f"full_view_share {params.full_view_share:g}, {processes} processes, {file}",
            where="distill in params.yaml",
            mend="Set execution.deepspeed to infra/deepspeed/zero1.json or zero2.json.",
        )


def _size(stage: str) -> str:
    return stage.split("@")[1]


def distill(workspace: Workspace, params: Params, size: str) -> None:
    """Run the stage for one student size.

    Raises:
        ParamsError: No student of this size in ``distill.students``.
    """
    if size not in params.distill.students:
        raise ParamsError(
            f"a student size of {', '.join(params.distill.students)}",
            found=size,
            where="distill.students in params.yaml",
            mend="Name one of them, or add its architecture.",
        )
    architecture = params.distill.students[size]
    section = params.distill.model_copy(update={"students": {size: architecture}})

    def body(stage: Stage) -> None:
        build: type[Objective] = StudentObjective
        prepare_probe(stage, params)
        _, records = run_training("tasks.distill", build, stage, section)
        result = Result(stage, section, architecture, records)
        digest = result.write()
        tags = {CHECKPOINT_TAG: digest, "kind": "student", "size": size}
        stage.tracker.log_model(stage.build, name=f"student-{size}", tags=tags)
        result.write_aside("early", section.early_step)
        result.write_aside("late", section.steps)

    run_stage(
        f"distill@{size}",
        body,
        workspace=workspace,
        section=section,
        parents=("ingest", "pack", "cache_targets"),
        also=params.probe_settings,
    )


def _arguments() -> str:
    parser = argparse.ArgumentParser(prog="python -m tasks.distill", description=__doc__)
    parser.add_argument("--size", required=True, help="student size in params.yaml, e.g. N")
    return str(parser.parse_args().size)


if __name__ == "__main__":
    if JOB in os.environ:
        train_as_worker(StudentObjective, DistillParams)
    else:
        chosen = _arguments()
        stage_main(lambda workspace, params: distill(workspace, params, chosen))
