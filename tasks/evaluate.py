"""Score the teacher and every student on the labels of the archive, and name the best student.

Students are ranked by their composite downstream score at one prefix length, never by a loss.
Source: TESSERA v2, section 3 (F1): over 395 runs the pretraining loss hardly predicts the score.

All models see the same d-pixels and the same folds, on ground that selected no checkpoint: the groups
of the training's probe are left out. An archive without labels is legal: then the largest student is
taken, and everything that reads the scores is told that there are none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from tasks.archive import Archive, open_archive
from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.errors import ParamsError
from tasks.evaluation.features import Extract, embedding_of, features_of, raw_composites
from tasks.evaluation.ground import survey_ground
from tasks.evaluation.labels import Task, TaskTooSmall, read_tasks
from tasks.evaluation.leaderboard import Leaderboard, Standing
from tasks.evaluation.probes import PROBE, folds_of, probe
from tasks.files import canonical_json, write_bytes, write_json
from tasks.params import Params
from tasks.progress import say, track
from tasks.scores import COMPOSITES, SCORES, TEACHER
from tasks.settings.products import EvaluateParams
from tasks.stage import Stage, run_stage, stage_main
from tasks.workspace import Workspace


def evaluate(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    section = params.evaluate
    students = tuple(params.distill.students)

    def body(stage: Stage) -> None:
        torch.set_num_threads(section.threads)
        checkpoints = {
            name: open_checkpoint(stage.parents[f"distill@{name}"], max_tokens=section.max_tokens)
            for name in students
        }
        _require_prefix(checkpoints, section)
        archive = open_archive(workspace, stage.parents["ingest"])
        ground = survey_ground(archive, section.block_px)
        of_probe = ground.of_probe(params.probe)
        found = read_tasks(ground, section, ~of_probe)
        tasks = [item for item in found if isinstance(item, Task)]
        skipped = [item for item in found if isinstance(item, TaskTooSmall)]
        sizes = {name: checkpoint.num_parameters for name, checkpoint in checkpoints.items()}
        board = Leaderboard(sizes, section.rank_prefix)
        if tasks:
            checkpoints[TEACHER] = open_checkpoint(
                stage.parents["pretrain"], max_tokens=section.max_tokens
            )
            for standing in _score(stage, archive, tasks, checkpoints, section):
                board.add(standing)
        content = {
            "suite": _suite(archive, tasks, section),
            "groups": {"evaluated": int((~of_probe).sum()), "left_to_probe": int(of_probe.sum())},
        }
        _write(stage, board, tasks, skipped, content)

    parents = ("ingest", "pretrain", *(f"distill@{name}" for name in students))
    run_stage(
        "evaluate",
        body,
        workspace=workspace,
        section=section,
        parents=parents,
        also={"probe": params.probe.model_dump(mode="json", include={"seed", "share"})},
    )


def _require_prefix(checkpoints: Mapping[str, Checkpoint], section: EvaluateParams) -> None:
    for name, checkpoint in checkpoints.items():
        if section.rank_prefix not in checkpoint.prefixes:
            raise ParamsError(
                f"a prefix that student {name} was trained for: {checkpoint.prefixes}",
                found=str(section.rank_prefix),
                where="evaluate.rank_prefix in params.yaml",
                mend="Choose one that all students have.",
            )


def _suite(archive: Archive, tasks: Sequence[Task], section: EvaluateParams) -> str:
    """Digest what makes scores comparable: the archive's bytes, the tasks, folds and probe."""
    content = {
        "archive": [asdict(entry) for entry in archive.catalogue.entries],
        "tasks": [task.digest() for task in tasks],
        "folds": [sha256(folds_of(task, section.seed).tobytes()).hexdigest() for task in tasks],
        "probe": PROBE,
    }
    return sha256(canonical_json(content).encode()).hexdigest()


def _competitors(
    checkpoints: Mapping[str, Checkpoint], section: EvaluateParams
) -> dict[str, tuple[Extract, tuple[int, ...]]]:
    """Return each model's extractor and prefixes; the raw baseline has no prefixes."""
    models: dict[str, tuple[Extract, tuple[int, ...]]] = {}
    for name, checkpoint in checkpoints.items():
        wanted = tuple(prefix for prefix in section.prefixes if prefix in checkpoint.prefixes)
        dims = (checkpoint.encoder.dim,) if name == TEACHER else wanted
        models[name] = embedding_of(checkpoint.encoder), dims
    return {**models, COMPOSITES: (raw_composites, ())}


def _score(
    stage: Stage,
    archive: Archive,
    tasks: Sequence[Task],
    checkpoints: Mapping[str, Checkpoint],
    section: EvaluateParams,
) -> Iterator[Standing]:
    """Yield the score of every model at every prefix on every task."""
    folds = [folds_of(task, section.seed) for task in tasks]
    for name, (extract, dims) in _competitors(checkpoints, section).items():
        features = features_of(archive, tasks, name, extract, stage.work)
        jobs = [(n, dim) for n in range(len(tasks)) for dim in dims or (features[n].shape[1],)]
        for n, dim in track(jobs, label=f"probe {name}", total=len(jobs), unit="probes"):
            score = probe(features[n][:, :dim], tasks[n], folds[n], section)
            n_train = len(folds[n]) - int(np.bincount(folds[n]).max())
            yield Standing(tasks[n], name, dim, score, n_train)


def _write(
    stage: Stage,
    board: Leaderboard,
    tasks: Sequence[Task],
    skipped: Sequence[TaskTooSmall],
    common: Mapping[str, Any],
) -> None:
    best, reason = board.best()
    content = board.to_json() | {
        **common,
        "labels": "scored" if tasks else ("too few" if skipped else "none"),
        "rank_prefix": board.rank_prefix,
        "best": best,
        "reason": reason,
        "skipped": [asdict(item) for item in skipped],
    }
    write_json(stage.build / SCORES, content)
    write_json(stage.build / "metrics.json", board.flat_metrics())
    write_bytes(stage.build / "prefixes.csv", board.prefix_csv().encode())
    write_bytes(stage.build / "leaderboard.md", board.to_markdown(content).encode())
    stage.tracker.log_metrics(board.metric_rows())
    stage.tracker.set_tags({"tessera.suite": common["suite"], "tessera.best": best})
    stage.counts |= {"tasks": len(tasks), "dpixels": sum(len(task.row) for task in tasks)}
    for item in skipped:
        say(f"evaluate: {item.name} is not scored: {item.reason}")
    groups = common["groups"]
    stage.counts |= {f"groups_{name}": count for name, count in groups.items()}
    say(
        f"evaluate: {groups['evaluated']} groups of labelled ground scored, "
        f"{groups['left_to_probe']} left to the probe that selected checkpoints"
    )
    say(f"evaluate: best student {best}: {reason}")


if __name__ == "__main__":
    stage_main(evaluate)
