"""Pretrain the teacher: Barlow Twins on two sparse views of a year, under DeepSpeed.

Each step draws one view length; both views of a d-pixel are random subsets of its observations, a
whole sensor is hidden now and then, and a third pass asks that a mixed input projects to the mix.
The projector is thrown away. The loss is recorded and never selects anything (finding F1).
"""

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.checkpoint import checkpoint_config, write_checkpoint
from models.hashing import hash_u64, uniform
from models.initialisation import initialise
from models.losses import barlow_twins, mix_views, mixup_consistency
from models.pools import scales
from models.teacher import Projector, Teacher
from tasks.packing.normalisation import resolve
from tasks.params import Params, PretrainParams
from tasks.stage import Stage, run_stage, stage_main
from tasks.streaming.windows import Source
from tasks.training.inputs import Inputs, open_parent, view_inputs
from tasks.training.launch import JOB, Job, run_training, train_as_worker
from tasks.training.objective import Batch, Objective, Work
from tasks.workspace import Workspace

_MIX = 0x4D4958  # keeps the mixing draw apart from the view draws


class TeacherWithProjector(nn.Module):
    """Encoder and head as one module, so that one engine shards both."""

    def __init__(self, params: PretrainParams) -> None:
        super().__init__()
        self.teacher = Teacher(params.architecture)
        self.projector = Projector(
            params.architecture.repr_dim, params.projector.width, params.projector.layers
        )

    def forward(self, views: list[Inputs]) -> list[Tensor]:
        """Return the projections of each view."""
        return [self.projector(self.teacher(*view)) for view in views]


class TeacherObjective:
    """Barlow Twins with mix-up consistency. Source: TESSERA v2, section 4."""

    def __init__(self, job: Job, params: PretrainParams) -> None:
        self.params = params
        self.source = Source(open_parent(job, "pack", "dpixels"))
        self.scales = scales(resolve(params.normalisation, job.parent("pack")))
        model = TeacherWithProjector(params)
        initialise(model, params.seed)
        self.module: nn.Module = model
        self.encoder: nn.Module = model.teacher

    backward_passes = 1

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
        alpha, partners = self._mixing(batch, device)
        mixed = tuple(mix_views(a, b, partners, alpha) for a, b in zip(view_a, view_b, strict=True))
        za, zb, z_mixed = module([view_a, view_b, mixed])
        weight = self.params.off_diagonal_weight
        twins = barlow_twins(za, zb, weight)
        mixup = mixup_consistency(
            z_mixed, za, zb, partners=partners, alpha=alpha, off_diagonal_weight=weight
        )
        loss = twins + self.params.mixup_weight * mixup
        parts = {"barlow_twins": float(twins.detach()), "mixup": float(mixup.detach())}
        numbers = parts | {"view_length": float(batch.view_length)}
        return Work(loss.detach(), numbers, iter([loss]))

    def assess(self, weights: Mapping[str, Tensor]) -> dict[str, float]:  # noqa: ARG002
        """Score nothing yet."""
        return {}

    def _mixing(self, batch: Batch, device: torch.device) -> tuple[float, Tensor]:
        """Draw the share of view a, uniform as Beta(1, 1) is, and name each row's partner.

        Decision: neighbours in the shuffled order are partners (0 with 1, 2 with 3, ...). That is a
        random pairing, and the same one on any number of processes, because neighbouring lanes
        are never parted.
        """
        alpha = float(uniform(hash_u64(self.params.seed, _MIX, batch.step)))
        partners = torch.arange(len(batch), device=device) ^ 1
        return alpha, partners


def pretrain(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    section = params.pretrain

    def body(stage: Stage) -> None:
        build: type[Objective] = TeacherObjective
        weights, records = run_training("tasks.pretrain", build, stage, section)
        config = checkpoint_config(
            section.architecture,
            resolve(section.normalisation, stage.parents["pack"]),
            ladder_step=section.ladder.step,
            ladder_largest=section.ladder.largest,
            provenance={"stage": stage.name, "seed": section.seed, "steps": section.steps},
        )
        digest = write_checkpoint(stage.build, weights, config)
        records.write_curves(stage.build / "curves.csv")
        stage.tracker.log_model(
            stage.build, name="teacher", tags={"tessera.checkpoint": digest, "kind": "teacher"}
        )
        stage.counts |= {
            "parameters": sum(tensor.numel() for tensor in weights.values()),
            "steps": section.steps,
            "dpixels_seen": section.steps * section.batch_size,
        }

    run_stage("pretrain", body, workspace=workspace, section=section, parents=("pack",))


if __name__ == "__main__":
    if JOB in os.environ:
        train_as_worker(TeacherObjective, PretrainParams)
    else:
        stage_main(pretrain)
