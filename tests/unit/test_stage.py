import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import DigestMismatch, LineageError, Preempted, TrackingError
from tasks.manifest import MANIFEST, read_manifest
from tasks.params import read_params
from tasks.stage import Stage, run_stage
from tasks.tracking import open_client
from tasks.workspace import Workspace


def write_two_files(stage: Stage) -> None:
    (stage.build / "a.txt").write_text("alpha")
    (stage.build / "inner").mkdir()
    (stage.build / "inner" / "b.txt").write_text("beta")
    stage.counts["files"] = 2


def run(
    workspace: Workspace,
    body: Callable[[Stage], None] = write_two_files,
    name: str = "ingest",
    parents: tuple[str, ...] = (),
) -> None:
    params = read_params(workspace.params)
    run_stage(name, body, workspace=workspace, section=params.ingest, parents=parents)


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_finished_output_lists_every_file_with_its_digest(workspace: Workspace) -> None:
    run(workspace)
    manifest = read_manifest(workspace.output("ingest"), verify=True)
    assert sorted(manifest.files) == ["a.txt", "inner/b.txt"]
    # SHA-256 of "alpha", from `printf alpha | sha256sum`.
    known = "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8"
    assert manifest.files["a.txt"] == {"sha256": known, "size": 5}
    assert manifest.counts == {"files": 2}


def test_two_runs_give_the_same_bytes(workspace: Workspace) -> None:
    run(workspace)
    first = bytes_below(workspace.output("ingest"))
    run(workspace)
    assert bytes_below(workspace.output("ingest")) == first


def test_failing_body_leaves_no_output_and_says_so_in_mlflow(workspace: Workspace) -> None:
    def fail(stage: Stage) -> None:
        (stage.build / "half.txt").write_text("half")
        raise DigestMismatch("x", found="y", where="here", mend="Mend it.")

    with pytest.raises(DigestMismatch):
        run(workspace, fail)
    assert not workspace.output("ingest").exists()
    client = open_client(workspace)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [r.info.status for r in found] == ["FAILED"]
    assert "expected x; found y" in found[0].data.tags["tessera.error"]


def test_the_reason_of_an_end_is_not_replaced_by_a_store_that_does_not_answer(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    def lose_the_store_and_be_asked_to_end(stage: Stage) -> None:
        stage.tracker.client.delete_run(stage.tracker.run_id)  # it refuses further news
        raise Preempted(3)

    with pytest.raises(Preempted):
        run(workspace, lose_the_store_and_be_asked_to_end)
    assert "could not be recorded in MLflow" in capfd.readouterr().out


def test_failing_rerun_keeps_the_old_output(workspace: Workspace) -> None:
    run(workspace)
    first = bytes_below(workspace.output("ingest"))

    def fail(_stage: Stage) -> None:
        raise DigestMismatch("x", found="y", where="here", mend="Mend it.")

    with pytest.raises(DigestMismatch):
        run(workspace, fail)
    assert bytes_below(workspace.output("ingest")) == first


def test_work_folder_survives_a_failure_and_is_new_after_success(workspace: Workspace) -> None:
    seen: list[bool] = []

    def resume(stage: Stage) -> None:
        mark = stage.work / "mark"
        seen.append(mark.exists())
        mark.touch()
        if len(seen) == 1:
            raise DigestMismatch("x", found="y", where="here", mend="Mend it.")
        write_two_files(stage)

    with pytest.raises(DigestMismatch):
        run(workspace, resume)
    run(workspace, resume)
    run(workspace, resume)
    assert seen == [False, True, False]


def test_finished_work_is_kept_until_dvc_has_recorded_the_output(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def resume(stage: Stage) -> None:
        seen.append((stage.work / "mark").exists())
        (stage.work / "mark").touch()
        write_two_files(stage)

    monkeypatch.setenv("DVC_STAGE", "ingest")
    run(workspace, resume)
    shutil.rmtree(workspace.output("ingest"))  # what DVC does to an output it did not record
    run(workspace, resume)
    (workspace.root / "dvc.lock").touch()
    run(workspace, resume)
    assert seen == [False, True, False]


def test_other_parameters_do_not_resume_from_this_work(workspace: Workspace) -> None:
    keys: list[str] = []

    def note(stage: Stage) -> None:
        keys.append(stage.work.name)
        write_two_files(stage)

    run(workspace, note)
    settings = workspace.params.read_text().replace("archive: data", "archive: elsewhere")
    workspace.params.write_text(settings)
    run(workspace, note)
    run(workspace, note)
    assert keys[0] != keys[1]
    assert keys[1] == keys[2]


def test_missing_parent_is_named_with_the_command_that_makes_it(workspace: Workspace) -> None:
    with pytest.raises(LineageError, match="dvc repro ingest"):
        run(workspace, name="validate", parents=("ingest",))


def test_changed_byte_in_a_parent_is_refused_before_use(workspace: Workspace) -> None:
    run(workspace)
    (workspace.output("ingest") / "inner" / "b.txt").write_text("bet4")
    with pytest.raises(DigestMismatch, match=r"inner/b\.txt"):
        run(workspace, name="validate", parents=("ingest",))


def test_unlisted_file_in_a_parent_is_refused(workspace: Workspace) -> None:
    run(workspace)
    (workspace.output("ingest") / "stray.txt").write_text("stray")
    with pytest.raises(DigestMismatch, match=r"stray\.txt"):
        run(workspace, name="validate", parents=("ingest",))


def test_child_run_points_to_the_run_that_made_its_parent(workspace: Workspace) -> None:
    run(workspace)
    run(workspace, name="validate", parents=("ingest",))
    client = open_client(workspace)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    runs = {r.data.tags["tessera.stage"]: r for r in found}
    child, parent = runs["validate"], runs["ingest"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    digest = parent.data.tags["tessera.digest"]
    assert child.inputs is not None
    assert [d.dataset.digest for d in child.inputs.dataset_inputs] == [digest[:36]]


def _slow_run(root: Path, marker: Path) -> None:
    def body(stage: Stage) -> None:
        with marker.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(1.5)
        write_two_files(stage)

    run(Workspace(root), body)


def test_second_runner_waits_and_takes_over_what_the_first_made(workspace: Workspace) -> None:
    marker = workspace.root / "who.txt"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_slow_run, args=(workspace.root, marker)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(marker.read_text().split()) == 1
    read_manifest(workspace.output("ingest"), verify=True)


def test_lock_of_a_killed_runner_is_free_and_its_mlflow_run_is_closed(workspace: Workspace) -> None:
    marker = workspace.root / "who.txt"
    process = multiprocessing.get_context("fork").Process(
        target=_slow_run, args=(workspace.root, marker)
    )
    process.start()
    while not marker.exists():
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert not (workspace.output("ingest") / MANIFEST).exists()
    run(workspace)
    client = open_client(workspace)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert sorted(r.info.status for r in found) == ["FINISHED", "KILLED"]


def test_provenance_names_the_manifest_and_the_mlflow_run(workspace: Workspace) -> None:
    run(workspace)
    path = workspace.artifacts / "provenance" / "ingest.json"
    facts = json.loads(path.read_text())
    run_id = facts["mlflow_run"]
    tags = open_client(workspace).get_run(run_id).data.tags
    assert tags["tessera.digest"] == facts["manifest"]


def test_database_whose_creation_was_killed_is_made_anew(tmp_path: Path) -> None:
    fresh = Workspace(tmp_path)
    half = tmp_path / ".tessera" / "mlflow" / "mlflow.db.making"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half a database")
    assert [e.name for e in open_client(fresh).search_experiments()] == ["Default"]


def test_damaged_database_is_named_with_the_way_out(tmp_path: Path) -> None:
    fresh = Workspace(tmp_path)
    database = tmp_path / ".tessera" / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"not a database, and long enough to be looked at as one" * 100)
    with pytest.raises(TrackingError, match="Restore the database"):
        open_client(fresh)
