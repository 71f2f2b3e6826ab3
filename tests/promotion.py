"""Stand-ins for what the promotion gate reads: a student's output and its evaluation."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tasks.registry import registry
from tasks.settings.section import Section
from tasks.stage import Stage, run_stage
from tasks.workspace import Workspace

REPOSITORY = Path(__file__).parents[2]


def make_student(workspace: Workspace, weight: float, name: str = "N") -> None:
    """Stand in for a distilled student: weights that differ are another student."""

    def fill(stage: Stage) -> None:
        save_file({"w": torch.full((2,), weight)}, stage.build / "model.safetensors")
        (stage.build / "config.json").write_text("{}\n")
        stage.tracker.log_model(stage.build, name=f"student-{name}", tags={"size": name})

    run_stage(
        f"distill@{name}", fill, workspace=workspace, section=Section(), inputs={"pack": "a" * 64}
    )


def make_scores(
    workspace: Workspace, score: float | None, *, suite: str = "s1", best: str = "N"
) -> None:
    """Stand in for an evaluation; ``None`` is an archive without labels."""
    content = {
        "suite": suite,
        "tasks": [] if score is None else [{"task": "crop"}],
        "labels": "none" if score is None else "scored",
        "rank_prefix": 128,
        "composite": {} if score is None else {best: {"16": 0.1, "128": score}},
        "best": best,
    }

    def fill(stage: Stage) -> None:
        (stage.build / "scores.json").write_text(json.dumps(content))

    run_stage(
        "evaluate", fill, workspace=workspace, section=Section(), parents=(f"distill@{best}",)
    )


def stand(workspace: Workspace, weight: float, score: float | None, suite: str = "s1") -> None:
    make_student(workspace, weight)
    make_scores(workspace, score, suite=suite)


def staged(workspace: Workspace) -> dict[str, str]:
    return {alias: v.version for v in registry(workspace) for alias in v.aliases}
