"""Distil a student: every prefix of its embedding reconstructs the cached teacher target.

The targets are read, never computed, so the compute goes into the student. Each prefix has a linear
head of its own; the heads are thrown away and the prefixes are what people use.
"""

import argparse
import os

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.architecture import StudentConfig
from models.bands import NORMALISATIONS
from models.buckets import merge_s1, normalised_s2
from models.checkpoint import checkpoint_config, write_checkpoint
from models.initialisation import initialise
from models.losses import prefix_distillation
from models.student import PrefixHeads, Student
from tasks.errors import LineageError, ParamsError
from tasks.params import DistillParams, Params
from tasks.shards import ShardSet, read_targets
from tasks.stage import Stage, run_stage, stage_main
from tasks.training.inputs import Inputs, view_inputs
from tasks.training.launch import JOB, Job, run_training, train_as_worker
from tasks.training.trainer import Batch, Objective
from tasks.workspace import Workspace


class StudentWithHeads(nn.Module):
    """Student and prefix heads as one module, so that one engine shards both."""

    def __init__(self, config: StudentConfig, target_dim: int) -> None:
        super().__init__()
        self.student = Student(config)
        self.heads = PrefixHeads(config.prefixes, target_dim)

    def forward(self, view: Inputs, target: Tensor) -> Tensor:
        """Return the distillation loss of a batch. Source: TESSERA v2, equation 2."""
        return prefix_distillation(self.student(*view), self.heads, target)


class StudentObjective:
    """Prefix distillation against cached targets. Source: TESSERA v2, section 5.

    Decision: the student reads a random subset of the observations whose length is drawn each step,
    while the target was made from all of them; the paper does not say. It makes one student serve
    sparse and dense years, and costs a fraction of the full series.
    """

    def __init__(self, job: Job, params: DistillParams) -> None:
        self.params = params
        self.normalisation = NORMALISATIONS[params.normalisation]
        self.shards = ShardSet(job.parent("pack"))
        pixel_id, self.targets = _all_targets(job, self.shards)
        self.pixel_id = pixel_id
        self.num_rows = len(self.shards)
        model = StudentWithHeads(params.students[_size(job.stage)], self.targets.shape[1])
        initialise(model, params.seed)
        self.module: nn.Module = model
        self.encoder: nn.Module = model.student

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss of this process's rows."""
        dpixels = self.shards.take(batch.rows)
        _require_same(dpixels.pixel_id, self.pixel_id[batch.rows])
        s2 = normalised_s2(dpixels, self.normalisation)
        s1 = merge_s1(dpixels, self.normalisation)
        device = next(module.parameters()).device
        view = view_inputs(
            *(s2, s1, batch.view_length, batch.seeds),
            dropout=self.params.modality_dropout,
            device=device,
        )
        target = torch.from_numpy(self.targets[batch.rows].astype(np.float32)).to(device)
        return module(view, target), {"view_length": float(batch.view_length)}


def _all_targets(
    job: Job, shards: ShardSet
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float16]]:
    folder = job.parent("cache_targets")
    names = [entry.name.replace("dpixels", "targets") for entry in shards.entries]
    parts = [read_targets(folder / name) for name in names]
    return np.concatenate([p for p, _ in parts]), np.concatenate([t for _, t in parts])


def _require_same(found: npt.NDArray[np.uint64], expected: npt.NDArray[np.uint64]) -> None:
    if not np.array_equal(found, expected):
        raise LineageError(
            "targets in the row order of the d-pixel shards",
            found="other pixel ids",
            where="artifacts/cache_targets",
            mend="Cache the targets again: dvc repro -f cache_targets",
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
        weights, records = run_training("tasks.distill", build, stage, section)
        config = checkpoint_config(
            architecture,
            NORMALISATIONS[section.normalisation],
            ladder_step=section.ladder.step,
            ladder_largest=section.ladder.largest,
            provenance={"stage": stage.name, "seed": section.seed, "steps": section.steps},
        )
        digest = write_checkpoint(stage.build, weights, config)
        records.write_curves(stage.build / "curves.csv")
        tags = {"tessera.checkpoint": digest, "kind": "student", "size": size}
        stage.tracker.log_model(stage.build, name=f"student-{size}", tags=tags)
        stage.counts |= {
            "parameters": sum(tensor.numel() for tensor in weights.values()),
            "steps": section.steps,
            "dpixels_seen": section.steps * section.batch_size,
        }

    run_stage(
        f"distill@{size}",
        body,
        workspace=workspace,
        section=section,
        parents=("pack", "cache_targets"),
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
