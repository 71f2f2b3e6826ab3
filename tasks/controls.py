"""Run the control experiments of the paper: what makes a prefix of an embedding usable.

The paper says that ordered prefixes come from distillation against a fixed target (equation 2) and
not from prefix losses in pretraining. Here are its controls, on the same d-pixels, folds and probes:

| control | what it is |
|---|---|
| equation 2 | the student of the pipeline, cut to its first k coordinates |
| truncation | a student of the same size distilled at its full length only, cut likewise |
| PCA | the first k principal components of the teacher's embeddings |
| prefix losses | a teacher pretrained with Barlow Twins on its prefixes too, cut likewise |
| teacher | the teacher of the pipeline, cut likewise, for reference |

The stage is run on demand (`tessera controls`), so its graph is in ``infra/controls/dvc.yaml``, and
nothing depends on it. With several seeds, trainings are repeated, and intervals are over seeds and
groups of ground. The ground of the training's probe is left out, as in the evaluation.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.archive import Archive, open_archive
from tasks.checkpoints import open_checkpoint
from tasks.controlling.compression import Components, Features, fit_components
from tasks.controlling.page import write_results
from tasks.controlling.scoring import REFERENCE, Control, score_controls
from tasks.controlling.trainings import train_prefix_teacher, train_student
from tasks.errors import DataError, ParamsError
from tasks.evaluation.features import embedding_of, features_of
from tasks.evaluation.ground import survey_ground
from tasks.evaluation.labels import Task, read_tasks
from tasks.manifest import read_manifest
from tasks.params import Params
from tasks.stage import Stage, run_stage, stage_main
from tasks.streaming.corpus import open_output
from tasks.workspace import Workspace

TRUNCATION, PCA = "truncation", "PCA"
PREFIX_LOSSES, TEACHER = "prefix losses", "teacher"
MEANINGS = {
    REFERENCE: "student distilled at all its prefixes, cut to the first k",
    TRUNCATION: "student distilled at its full length only, cut to the first k",
    PCA: "first k principal components of the teacher",
    PREFIX_LOSSES: "teacher pretrained with prefix losses, cut to the first k",
    TEACHER: "teacher as it is, cut to the first k",
}


def controls(workspace: Workspace, params: Params) -> None:
    """Run the stage.

    Raises:
        ParamsError: ``controls.size`` is no student of the pipeline.
    """
    section, size = params.controls, params.controls.size
    if size not in params.distill.students:
        raise ParamsError(
            f"a student size of {', '.join(params.distill.students)}",
            found=size,
            where="controls.size in params.yaml",
            mend="Name one of them.",
        )

    def body(stage: Stage) -> None:
        require_own_targets(stage.parents["cache_targets"])
        archive = open_archive(workspace, stage.parents["ingest"])
        tasks = _tasks(archive, params)
        folders = {seed: _train(stage, params, seed) for seed in section.seeds}
        torch.set_num_threads(params.evaluate.threads)
        targets = open_output(
            "cache_targets", stage.parents["cache_targets"], workspace.shards, "targets"
        )
        components = fit_components(targets)

        def features(name: str, folder: Path) -> list[Features]:
            encoder = open_checkpoint(folder, max_tokens=params.evaluate.max_tokens).encoder
            return features_of(archive, tasks, name, embedding_of(encoder), stage.work)

        found = _controls(stage.parents["pretrain"], folders, components, features)
        rows = score_controls(found, tasks, params.evaluate)
        explained = {k: round(float(components.explained[k - 1]), 4) for k in _reached(params)}
        facts = {"size": size, "seeds": list(section.seeds), "pca_explains": explained}
        meanings = {control.name: control.meaning for control in found}
        write_results(stage.build, {**facts, "meanings": meanings, "rows": rows})
        stage.tracker.log_metrics([_metrics(row) for row in rows], step_key="prefix")
        stage.counts |= {"controls": len(found), "tasks": len(tasks), "seeds": len(section.seeds)}

    changed = {
        "pretrain": params.pretrain,
        "distill": params.distill,
        "evaluate": params.evaluate,
    }
    run_stage(
        "controls",
        body,
        workspace=workspace,
        section=section,
        parents=("ingest", "pack", "pretrain", "cache_targets", f"distill@{size}"),
        also={name: part.model_dump(mode="json") for name, part in changed.items()}
        | params.probe_settings,
    )


def require_own_targets(folder: Path) -> None:
    """Refuse targets of a teacher from outside: the components would be of one, the scores of another.

    Raises:
        ParamsError: The cached targets are not those of the pipeline's teacher.
    """
    foreign = read_manifest(folder).parents.get("teacher")
    if foreign is not None:
        raise ParamsError(
            "targets of the pipeline's own teacher, which the controls are about",
            found=f"those of the teacher {foreign[:12]}",
            where="cache_targets.teacher in params.yaml",
            mend='Set it and cache_targets.teacher_digest to "" for the control experiments.',
        )


def _tasks(archive: Archive, params: Params) -> list[Task]:
    ground = survey_ground(archive, params.evaluate.block_px)
    found = read_tasks(ground, params.evaluate, ~ground.of_probe(params.probe))
    tasks = [item for item in found if isinstance(item, Task)]
    if not tasks:
        raise DataError(
            "labels to score the controls on",
            found="; ".join(f"{item.name}: {item.reason}" for item in found) or "none",  # type: ignore[union-attr]  # none of them is a task
            where="the archive, without the ground of the probe",
            mend="Add label rasters to the archive: tessera import says how they look.",
        )
    return tasks


def _train(stage: Stage, params: Params, seed: int) -> dict[str, Path]:
    """Train what one seed needs; the pipeline's own student is taken where it has the seed."""
    prefixes = params.distill.students[params.controls.size].prefixes
    own = stage.parents[f"distill@{params.controls.size}"]
    same = seed == params.distill.seed
    return {
        REFERENCE: own if same else train_student(stage, params, seed, prefixes=prefixes),
        TRUNCATION: train_student(stage, params, seed, prefixes=prefixes[-1:]),
        PREFIX_LOSSES: train_prefix_teacher(stage, params, seed),
    }


def _controls(
    teacher: Path,
    folders: Mapping[int, Mapping[str, Path]],
    components: Components,
    features: Callable[[str, Path], list[Features]],
) -> list[Control]:
    """Return the features of every control, for each seed."""
    of_teacher = features("teacher", teacher)
    compressed = [components.transform(part) for part in of_teacher]
    once = {PCA: [compressed], TEACHER: [of_teacher]}
    trained = {
        name: [features(f"{name} {seed}", of_seed[name]) for seed, of_seed in folders.items()]
        for name in (REFERENCE, TRUNCATION, PREFIX_LOSSES)
    }
    return [Control(name, MEANINGS[name], runs) for name, runs in (trained | once).items()]


def _reached(params: Params) -> list[int]:
    return [k for k in params.evaluate.prefixes if k <= params.pretrain.architecture.repr_dim]


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Return a row's numbers under the name of its control, with the prefix as the step."""
    name = row["control"].replace(" ", "_")
    numbers = ("score", "low", "high", "retained", "difference")
    return {"prefix": row["prefix"]} | {f"{name}.{n}": row[n] for n in numbers if n in row}


if __name__ == "__main__":
    stage_main(controls)
