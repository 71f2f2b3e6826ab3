"""The trainings that only a control experiment needs, each resumable in a folder of its own.

The one idea: a control differs from the pipeline in one setting. So it is trained by the pipeline's
own code from the pipeline's own settings, selected by the same probe, and only that setting changed.

A finished training is a folder that got its name last; a run that goes on takes it as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from models.architecture import StudentConfig, TeacherConfig
from tasks.distill import StudentObjective
from tasks.files import swap_folder, sync_tree
from tasks.params import Params
from tasks.pretrain import TeacherObjective
from tasks.progress import say
from tasks.settings.training import DistillParams, PretrainParams
from tasks.stage import Stage
from tasks.training.launch import Job, run_training
from tasks.training.objective import Objective
from tasks.training.probing import prepare_probe
from tasks.training.result import Result

AnyParams = TypeVar("AnyParams", PretrainParams, DistillParams)


@dataclass(frozen=True, slots=True)
class _Training(Generic[AnyParams]):
    """What a control trains, in the pipeline's terms."""

    label: str
    module: str
    build: Callable[[Job, AnyParams], Objective]
    section: AnyParams
    architecture: TeacherConfig | StudentConfig


def train_prefix_teacher(stage: Stage, params: Params, seed: int) -> Path:
    """Pretrain the teacher with a Barlow Twins loss on each prefix too; return its checkpoint."""
    architecture = params.pretrain.architecture
    prefixes = tuple(k for k in params.evaluate.prefixes if k < architecture.repr_dim)
    section = params.pretrain.model_copy(update={"seed": seed, "prefix_losses": prefixes})
    label = f"prefix-teacher-{seed}"
    training = _Training(label, "tasks.pretrain", TeacherObjective, section, architecture)
    return _trained(stage, params, training)


def train_student(stage: Stage, params: Params, seed: int, *, prefixes: tuple[int, ...]) -> Path:
    """Distil a student whose loss has these prefixes; return its checkpoint."""
    size = params.controls.size
    architecture = replace(params.distill.students[size], prefixes=prefixes)
    section = params.distill.model_copy(update={"seed": seed, "students": {size: architecture}})
    label = f"student-{'-'.join(map(str, prefixes))}-{seed}"
    training = _Training(label, "tasks.distill", StudentObjective, section, architecture)
    return _trained(stage, params, training)


def _trained(stage: Stage, params: Params, training: _Training[AnyParams]) -> Path:
    label, section = training.label, training.section
    done = stage.work / label / "checkpoint"
    if done.exists():
        say(f"controls: {label} is trained")
        return done
    say(f"controls: training {label}")
    inner = _within(stage, label, params.controls.size)
    prepare_probe(inner, params)
    _, records = run_training(training.module, training.build, inner, section)
    Result(inner, section, training.architecture, records).write()
    sync_tree(inner.build)
    swap_folder(inner.build, done)
    return done


def _within(stage: Stage, label: str, size: str) -> Stage:
    """Return the stage as one of its trainings sees it."""
    work, build = stage.work / label / "work", stage.work / label / "building"
    work.mkdir(parents=True, exist_ok=True)
    build.mkdir(exist_ok=True)
    tracker = replace(stage.tracker, prefix=f"{label}/")
    changes: dict[str, Any] = {"counts": {}, "measured": {}, "tracker": tracker}
    return replace(stage, name=f"{stage.name}@{size}", work=work, build=build, **changes)
