"""Runs in a real SQLite store, made as the stages make them."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tasks.cli import app
from tasks.compare_runs import compare_runs, curves, differences, key_numbers, render
from tasks.errors import DataError, LineageError
from tasks.manifest import Manifest
from tasks.reporting.overlay import draw_overlay
from tasks.run_history import by_id, find_run, history, list_runs
from tasks.tracking import EXECUTION_TAG, Tracker, track_stage
from tasks.workspace import Workspace

PNG = b"\x89PNG"


def plan(stage: str = "pretrain", **changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "params": {"rate": 0.1},
        "parents": {"pack": "a" * 64},
        "code": "c" * 64,
    }
    facts |= {"lock": "d" * 64} | changes
    return Manifest(stage=stage, key="k", counts={}, files={}, **facts)


def train(
    workspace: Workspace,
    losses: list[float],
    *,
    numbers: Mapping[str, float] | None = None,
    **changes: Any,
) -> str:
    with track_stage(workspace, plan(**changes)) as tracker:
        rows = [{"step": step, "loss": loss} for step, loss in enumerate(losses)]
        tracker.log_metrics([*rows, dict(numbers)] if numbers else rows)
        return tracker.run_id


def fail(workspace: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), track_stage(workspace, plan()):
        raise ZeroDivisionError


def test_project_whose_folder_has_a_quote_finds_its_own_runs(
    workspace: Workspace, tmp_path: Path
) -> None:
    shared = workspace.tracking_uri
    quoted = Workspace(tmp_path / "tess'era' or 1 = 1")
    quoted.root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", shared)
        train(workspace, [1.0])
        mine = train(quoted, [2.0])
        assert [run.run_id for run in list_runs(quoted)] == [mine]


def test_runs_are_listed_newest_first_with_their_status(workspace: Workspace) -> None:
    first = train(workspace, [2.0, 1.0])
    fail(workspace)
    train(workspace, [], stage="distill@N")
    runs = list_runs(workspace)
    assert [(r.stage, r.status) for r in runs] == [
        ("distill@N", "FINISHED"),
        ("pretrain", "FAILED"),
        ("pretrain", "FINISHED"),
    ]
    assert runs[-1].run_id == first
    assert runs[-1].metrics == {"loss": 1.0}


def test_a_stage_stands_for_all_its_sizes(workspace: Workspace) -> None:
    for stage in ("distill@N", "distill@S", "pretrain"):
        train(workspace, [], stage=stage)
    assert [r.stage for r in list_runs(workspace, stage="distill")] == ["distill@S", "distill@N"]
    assert [r.stage for r in list_runs(workspace, stage="distill@N")] == ["distill@N"]
    assert len(list_runs(workspace, limit=2)) == 2


def test_runs_of_another_project_in_the_store_are_seen_on_demand_alone(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workspace.tracking_uri)
    train(Workspace(tmp_path / "another"), [1.0])
    assert list_runs(workspace) == []
    (theirs,) = list_runs(workspace, everyone=True)
    assert find_run(workspace, theirs.run_id).run_id == theirs.run_id
    with pytest.raises(LineageError, match="no run of that name"):
        find_run(workspace, "pretrain")


def test_a_stage_means_its_last_run_that_went_well(workspace: Workspace) -> None:
    runs = [train(workspace, [1.0]) for _ in range(3)]
    fail(workspace)
    assert find_run(workspace, "pretrain").run_id == runs[2]
    assert find_run(workspace, "pretrain~0").run_id == runs[2]
    assert find_run(workspace, "pretrain~2").run_id == runs[0]
    with pytest.raises(LineageError, match="3 runs of pretrain that went well"):
        find_run(workspace, "pretrain~3")


def test_a_run_is_found_by_the_beginning_of_its_id(workspace: Workspace) -> None:
    run = train(workspace, [1.0])
    assert find_run(workspace, run[:6]).run_id == run
    with pytest.raises(LineageError, match="no run of that name"):
        find_run(workspace, run[:3])


def test_what_differs_is_shown_and_what_is_equal_is_not(workspace: Workspace) -> None:
    same = {"seed": 7, "steps": 10}
    one = train(workspace, [3.0, 2.0], params={"rate": 0.1, "model": {"width": 8}} | same)
    two = train(
        workspace,
        [3.0, 1.5],
        numbers={"step": 1, "probe": 0.5},
        params={"rate": 0.2, "model": {"width": 16}} | same,
        parents={"pack": "b" * 64},
        code="e" * 64,
    )
    found = compare_runs(workspace, [one, two])
    assert found.parameters == {"model.width": ["8", "16"], "rate": ["0.1", "0.2"]}
    assert found.inputs == {"pack": ["a" * 64, "b" * 64]}
    assert found.code == {"source files": ["c" * 64, "e" * 64]}
    assert found.metrics == {"loss": [2.0, 1.5], "probe": [None, 0.5]}
    text = render(found)
    assert re.search(r"rate +0\.1 +0\.2", text)
    assert re.search(r"loss +2 +1\.5 +-0\.5", text)
    assert re.search(r"probe +- +0\.5 +-$", text, re.MULTILINE)
    assert "lock" not in text
    assert "seed" not in text


def test_equal_runs_are_called_equal(workspace: Workspace) -> None:
    names = [train(workspace, [1.0]) for _ in range(2)]
    text = render(compare_runs(workspace, names))
    for table in ("settings", "settings of execution", "inputs", "code"):
        assert f"{table}: equal" in text


def test_how_a_run_was_carried_out_is_apart_and_the_machine_is_left_out(
    workspace: Workspace,
) -> None:
    names = []
    for processes in (1, 2):
        with track_stage(workspace, plan()) as tracker:
            text = json.dumps({"processes": processes, "threads": 1})
            tracker.set_tags({EXECUTION_TAG: text})
            tracker.log_speed([{"step": 9, "dpixels_per_second": 100.0 * processes}])
            tracker.log_metrics([{"speed.seconds": 3.0}])
        names.append(tracker.run_id)
    found = compare_runs(workspace, names)
    assert found.execution == {"processes": [1, 2]}
    assert found.parameters == {}
    assert found.metrics == {"speed.seconds": [3.0, 3.0]}
    run = find_run(workspace, names[1])
    assert run.metrics["system/dpixels_per_second"] == 200.0
    assert history(workspace, run, "system/dpixels_per_second") == ([9], [200.0])


def test_differences_are_against_the_first_run() -> None:
    assert differences([1.0, 3.0, None, 0.5]) == [0.0, 2.0, None, -0.5]
    assert differences([None, 3.0]) == [None, None]


def log_twice(tracker: Tracker) -> None:
    tracker.log_metrics([{"step": s, "loss": 9.0 - s} for s in range(4)])
    tracker.log_metrics([{"step": s, "loss": 5.0 - s} for s in range(2, 4)])


def test_a_step_that_was_taken_twice_has_its_later_value(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(1000, 2000))
    monkeypatch.setattr("tasks.tracking.time", lambda: next(ticks))
    with track_stage(workspace, plan()) as tracker:
        log_twice(tracker)
    run = find_run(workspace, tracker.run_id)
    assert history(workspace, run, "loss") == ([0, 1, 2, 3], [9.0, 8.0, 3.0, 2.0])


def test_curves_are_drawn_of_runs_that_have_them(workspace: Workspace, tmp_path: Path) -> None:
    one = train(workspace, [3.0, 2.0, 1.0])
    two = train(workspace, [3.0, 1.0], numbers={"step": 1, "probe": 0.5})
    found = curves(workspace, [find_run(workspace, name) for name in (one, two)])
    assert {metric: len(runs) for metric, runs in found.items()} == {"loss": 2, "probe": 1}
    assert found["loss"][f"pretrain {one[:8]}"] == ([0, 1, 2], [3.0, 2.0, 1.0])
    draw_overlay(found, tmp_path / "new" / "runs.png")
    assert (tmp_path / "new" / "runs.png").read_bytes().startswith(PNG)


def test_runs_without_curves_are_refused(workspace: Workspace) -> None:
    train(workspace, [], stage="pack")
    with pytest.raises(DataError, match="loss or probe by step"):
        curves(workspace, [find_run(workspace, "pack")])


def test_a_line_of_the_list_has_what_a_run_is_remembered_by(workspace: Workspace) -> None:
    train(workspace, [1.25], numbers={"probe": 0.5, "mixup": 3.0, "speed.utilisation": 0.4})
    assert key_numbers(find_run(workspace, "pretrain")) == "probe 0.5  loss 1.25  utilisation 0.4"


@pytest.fixture
def _inside(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_ROOT", str(workspace.root))


@pytest.mark.usefixtures("_inside")
def test_commands_print_json_for_programs(workspace: Workspace) -> None:
    names = [train(workspace, [loss]) for loss in (2.0, 1.0)]
    listed = json.loads(CliRunner().invoke(app, ["runs", "--json"]).stdout)
    assert [run["run_id"] for run in listed] == names[::-1]
    compared = CliRunner().invoke(app, ["runs", "compare", *names, "--json"])
    assert compared.exit_code == 0
    found = json.loads(compared.stdout)
    assert [run["run"] for run in found["runs"]] == names
    assert found["metrics"]["loss"] == {"values": [2.0, 1.0], "differences": [0.0, -1.0]}


@pytest.mark.usefixtures("_inside")
def test_commands_print_text_for_people(workspace: Workspace) -> None:
    assert "No stage has run yet" in CliRunner().invoke(app, ["runs"]).stdout
    train(workspace, [2.0])
    train(workspace, [1.0])
    assert CliRunner().invoke(app, ["runs"]).stdout.count("pretrain") == 2
    found = CliRunner().invoke(app, ["runs", "compare", "pretrain~1", "pretrain"]).stdout
    assert re.search(r"loss +2 +1 +-1", found)


def test_one_run_is_not_compared() -> None:
    done = CliRunner().invoke(app, ["runs", "compare", "pretrain"])
    assert done.exit_code == 2


def test_ids_that_begin_alike_are_told_apart_or_refused(workspace: Workspace) -> None:
    run = find_run(workspace, train(workspace, [1.0]))
    twin = replace(run, run_id=run.run_id[:6] + "z" * 26)
    assert by_id([run, twin], run.run_id[:7]) == run
    with pytest.raises(LineageError, match="2 runs whose ids begin so"):
        by_id([run, twin], run.run_id[:6])
