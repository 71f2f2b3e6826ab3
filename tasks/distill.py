"""Distil a student: every prefix of its embedding reconstructs the cached teacher target.

The targets are read, never computed, so the compute goes into the student. Each prefix has a linear
head of its own; the heads are thrown away and the prefixes are what people use.
"""

import argparse
import os
from collections.abc import Mapping

from torch import Tensor, nn

from models.architecture import StudentConfig
from models.checkpoint import checkpoint_config, write_checkpoint
from models.initialisation import initialise
from models.losses import prefix_distillation
from models.pools import scales
from models.student import PrefixHeads, Student
from tasks.errors import ParamsError
from tasks.packing.normalisation import resolve
from tasks.params import DistillParams, Params
from tasks.stage import Stage, run_stage, stage_main
from tasks.streaming.windows import Source
from tasks.training.inputs import Inputs, open_parent, target_inputs, view_inputs
from tasks.training.launch import JOB, Job, run_training, train_as_worker
from tasks.training.objective import Batch, Objective, Work
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
        targets = open_parent(job, "cache_targets", "targets")
        self.source = Source(open_parent(job, "pack", "dpixels"), targets)
        self.scales = scales(resolve(params.normalisation, job.parent("pack")))
        model = StudentWithHeads(params.students[_size(job.stage)], targets.width)
        initialise(model, params.seed)
        self.module: nn.Module = model
        self.encoder: nn.Module = model.student

    backward_passes = 1

    def work(self, module: nn.Module, batch: Batch) -> Work:
        """Return the mean loss of this process's rows."""
        device = next(module.parameters()).device
        view = view_inputs(
            *(batch.parts, 0, batch.view_length, self.scales),
            dropout=self.params.modality_dropout,
            device=device,
        )
        target = target_inputs(batch.parts, device)
        loss = module(view, target)
        return Work(loss.detach(), {"view_length": float(batch.view_length)}, iter([loss]))

    def assess(self, weights: Mapping[str, Tensor]) -> dict[str, float]:  # noqa: ARG002
        """Score nothing yet."""
        return {}


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
            resolve(section.normalisation, stage.parents["pack"]),
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
