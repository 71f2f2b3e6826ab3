"""What a crash leaves behind is found, and mended only where nobody is alive to need it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tasks import doctor
from tasks.diagnosis import installation, leftovers
from tasks.diagnosis.finding import Finding
from tasks.tracking import experiment_id, open_client
from tasks.workspace import Workspace
from tests.toy_project import make_toy

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # each asks DVC in a project of its own


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    toy = make_toy(tmp_path / "toy")
    for name, value in toy.environment().items():
        monkeypatch.setenv(name, value)
    return Workspace(toy.root)


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return child.pid


def state(finding: Finding) -> str:
    return finding.state


def test_a_fresh_project_has_no_failure_but_says_that_nothing_is_backed_up(
    project: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    findings = {finding.name: finding for finding in doctor.examine(project)}
    assert {name: f.found for name, f in findings.items() if f.state == "fail"} == {}
    assert findings["DVC remote"].state == "warn"
    assert findings["data"].state == "ok"
    assert json.loads(doctor.to_json(list(findings.values())))["healthy"] is True


def test_missing_data_is_a_failure_with_the_command_that_makes_it(project: Workspace) -> None:
    shutil.rmtree(project.root / "data")
    found = doctor.check_data(project)
    assert found.state == "fail"
    assert "tessera sample" in found.mend


def test_changed_data_is_noticed(project: Workspace) -> None:
    (project.root / "data" / "tile.txt").write_text("changed\n")
    assert doctor.check_data(project).state == "warn"


def test_a_remote_that_does_not_answer_is_a_failure(project: Workspace) -> None:
    # A port on this machine at which nobody listens.
    for command in (
        ["remote", "add", "--default", "far", "s3://bucket/folder"],
        ["remote", "modify", "far", "endpointurl", "http://127.0.0.1:9"],
        ["remote", "modify", "far", "access_key_id", "nobody"],
        ["remote", "modify", "--local", "far", "secret_access_key", "nothing"],
    ):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=project.root, check=True)
    assert state(doctor.asked("DVC remote", lambda: doctor.check_remote(project))) == "fail"


def test_a_remote_whose_pulls_are_not_hashed_is_a_warning_until_they_are(
    project: Workspace, tmp_path: Path
) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run(
        [*dvc, "remote", "add", "-q", "--default", "near", str(tmp_path / "near")],
        cwd=project.root,
        check=True,
    )
    found = doctor.check_remote(project)
    assert found.state == "warn"
    command = found.mend.partition(";")[0].split()[1:]
    subprocess.run([*dvc, *command], cwd=project.root, check=True)
    assert doctor.check_remote(project).state == "ok"


def test_a_version_that_differs_from_the_lock_is_named(project: Workspace) -> None:
    lock = project.root / "infra" / "lock"
    lock.mkdir(parents=True)
    (lock / "requirements.txt").write_text(
        "numpy==0.1 \\\n    --hash=sha256:00\nno-such-thing==1\n"
    )
    found = installation.check_locked_versions(project)
    assert found.state == "fail"
    assert "locked 0.1" in found.found
    assert "no-such-thing missing" in found.found


def test_the_build_tag_of_torch_does_not_count_as_another_version(project: Workspace) -> None:
    from importlib.metadata import version

    lock = project.root / "infra" / "lock"
    lock.mkdir(parents=True)
    plain = version("torch").split("+")[0]
    (lock / "torch-cuda.txt").write_text(f"torch=={plain}+cu999\n")
    assert installation.check_locked_versions(project).state == "ok"


def test_locks_of_dead_dvc_processes_are_removed_and_live_ones_kept(project: Workspace) -> None:
    path = project.root / ".dvc" / "tmp" / "rwlock"
    live = subprocess.Popen(
        [sys.executable, "-c", "input()", "dvc", "repro"], stdin=subprocess.PIPE
    )
    dead = {"pid": dead_pid(), "cmd": "dvc repro"}
    # A process id that was given to another program since; DVC itself would wait for it for ever.
    reused = {"pid": os.getpid(), "cmd": "dvc repro"}
    alive = {"pid": live.pid, "cmd": "dvc repro"}
    content = {"write": {"a": dead, "b": reused, "c": alive}, "read": {"d": [dead, alive]}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    with live:
        assert state(leftovers.check_dvc_locks(project, fix=False)) == "warn"
        assert json.loads(path.read_text()) == content
        assert state(leftovers.check_dvc_locks(project, fix=True)) == "mended"
        assert json.loads(path.read_text()) == {"write": {"c": alive}, "read": {"d": [alive]}}
        live.kill()


def test_a_truncated_lock_file_is_removed_only_while_no_dvc_works_here(project: Workspace) -> None:
    path = project.root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"write": {"a": {"pi')
    assert state(leftovers.check_dvc_locks(project, fix=False)) == "fail"
    live = subprocess.Popen(
        [sys.executable, "-c", "input()", "dvc", "repro"], stdin=subprocess.PIPE, cwd=project.root
    )
    with live:
        found = leftovers.check_dvc_locks(project, fix=True)
        assert (found.state, str(live.pid) in found.mend) == ("fail", True)
        live.kill()
    assert path.is_file()
    assert state(leftovers.check_dvc_locks(project, fix=True)) == "mended"
    subprocess.run([sys.executable, "-m", "dvc", "repro", "ingest"], cwd=project.root, check=True)


def test_locks_are_left_alone_while_dvc_is_changing_them(project: Workspace) -> None:
    path = project.root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"write": {"a": {"pid": dead_pid(), "cmd": "dvc repro"}}})
    path.write_text(content)
    # DVC's own lock class, as it holds it around every change.
    code = (
        "import sys; from dvc.lock import make_lock\n"
        "with make_lock(sys.argv[1], tmp_dir='.'): print('held', flush=True); input()"
    )
    dvc = subprocess.Popen(
        [sys.executable, "-c", code, str(path) + ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with dvc:
        assert dvc.stdout is not None
        assert dvc.stdout.readline() == "held\n"
        found = doctor.asked("locks", lambda: leftovers.check_dvc_locks(project, fix=True))
        assert (found.state, path.read_text()) == ("ok", content)
        dvc.kill()
    assert state(leftovers.check_dvc_locks(project, fix=True)) == "mended"


def test_every_check_answers_though_the_files_that_they_read_are_damaged(
    project: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    sound = [finding.name for finding in doctor.examine(project)]
    lock = project.root / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text('{"wri')
    database = project.state / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    database.write_bytes(b"not a database" * 1000)
    pins = project.root / "infra" / "lock" / "requirements.txt"
    pins.parent.mkdir(parents=True)
    pins.write_bytes(b"\xff\xfe")
    findings = doctor.examine(project)
    assert [finding.name for finding in findings] == sound
    failed = {finding.name: finding for finding in findings if finding.state == "fail"}
    assert {"DVC locks", "experiments", "locked versions"} <= set(failed)
    assert all(finding.mend for finding in failed.values())


def test_every_make_target_that_a_mend_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    checks = [REPOSITORY / "tasks" / "doctor.py", *(REPOSITORY / "tasks/diagnosis").glob("*.py")]
    named = {
        target
        for path in checks
        for target in re.findall(r"\bmake (?:[A-Z]+=\S+ )?([a-z-]+)", path.read_text())
    }
    assert {"setup", "lock"} <= named <= targets


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 12), "fail")]
)
def test_only_the_python_that_the_lock_files_hold_for_is_accepted(
    version: tuple[int, int], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 4))
    assert installation.check_python().state == state


def test_half_built_outputs_are_removed_only_when_nobody_builds_them(project: Workspace) -> None:
    folder = project.artifacts / "distill"
    for size in "NS":
        (folder / f".{size}.building").mkdir(parents=True)
        (folder / f".{size}.holder.json").write_text("{}")
    with FileLock(folder / ".N.lock"):
        assert state(leftovers.check_half_built(project, fix=True)) == "mended"
        assert state(leftovers.check_stage_holders(project, fix=True)) == "mended"
    assert (folder / ".N.building").is_dir()
    assert (folder / ".N.holder.json").is_file()
    assert not (folder / ".S.building").exists()
    assert not (folder / ".S.holder.json").exists()


def test_a_compiler_lock_goes_unless_a_compiler_works_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name in ("idle", "building"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    compiler = subprocess.Popen(
        [sys.executable, "-c", "input()"], cwd=tmp_path / "building", stdin=subprocess.PIPE
    )
    with compiler:
        assert state(leftovers.check_extension_locks(fix=True)) == "mended"
        compiler.kill()
    assert not (tmp_path / "idle" / "lock").exists()
    assert (tmp_path / "building" / "lock").exists()


def test_an_mlflow_run_without_a_live_stage_is_ended(workspace: Workspace) -> None:
    client = open_client(workspace)
    experiment = experiment_id(client, workspace)
    tags = [{"tessera.stage": "pack"}, {"tessera.stage": "distill@N"}]
    dead, alive = (client.create_run(experiment, tags=tag).info.run_id for tag in tags)
    lock = workspace.output("distill@N").with_name(".N.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        assert state(leftovers.check_experiments(workspace, fix=False)) == "warn"
        assert state(leftovers.check_experiments(workspace, fix=True)) == "mended"
    assert client.get_run(dead).info.status == "KILLED"
    assert client.get_run(alive).info.status == "RUNNING"


def test_a_project_that_was_moved_is_noticed(workspace: Workspace, tmp_path: Path) -> None:
    experiment_id(open_client(workspace), workspace)
    moved = tmp_path / "moved"
    shutil.copytree(workspace.root, moved)
    place = leftovers.check_project_folder(Workspace(moved))
    assert (place.name, place.state) == ("project folder", "fail")
