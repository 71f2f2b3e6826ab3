"""Checks for what a crash leaves behind: locks, half-built folders, runs that nobody ends any more.

Each names what it found; with ``fix`` it is removed, but only where the process that would own it is
proven dead (its lock is free, its id is gone). Nothing that a live run needs is touched.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from tasks.diagnosis.finding import Finding
from tasks.errors import StageBusy
from tasks.files import write_json
from tasks.serving.orchestrator import FlowRun, orchestrator
from tasks.workspace import Workspace

_NAMED = 5


def check_dvc_locks(workspace: Workspace, *, fix: bool) -> Finding:
    """Look in DVC's lock file for processes that are dead, or are no DVC process any more.

    It is rewritten under DVC's own guard, so that no entry that a DVC makes meanwhile is lost.
    """
    path = workspace.root / ".dvc" / "tmp" / "rwlock"
    if not path.is_file():
        return _answer("DVC locks", [], fix, lambda: None)
    try:
        _, dead = _sort_locks(path)
    except ValueError:
        return _broken_dvc_locks(workspace, path, fix=fix)
    return _answer("DVC locks", dead, fix, lambda: _rewrite_locks(path))


def _broken_dvc_locks(workspace: Workspace, path: Path, *, fix: bool) -> Finding:
    """Answer for a lock file that nobody can read, at which every DVC command fails."""
    found = f"{path.relative_to(workspace.root)} is not readable as DVC's lock file"
    if not fix:
        return Finding("DVC locks", "fail", found, "tessera doctor --fix")
    with _dvc_guard(path):
        if pids := _dvc_at_work(workspace.root):
            mend = f"Wait until DVC has ended (process {pids[0]}), then: tessera doctor --fix"
            return Finding("DVC locks", "fail", found, mend)
        path.unlink()
    return Finding("DVC locks", "mended", found)


def _sort_locks(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the entries of live DVC processes, and the paths that only dead ones hold.

    Raises:
        ValueError: The file is not what DVC writes.
    """
    content = json.loads(path.read_text())
    try:
        write, read = content.get("write", {}), content.get("read", {})
        live = {
            "write": {p: entry for p, entry in write.items() if _is_dvc(entry)},
            "read": {p: [e for e in entries if _is_dvc(e)] for p, entries in read.items()},
        }
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"expected DVC's lock entries in {path}, got {content!r}") from error
    live["read"] = {p: entries for p, entries in live["read"].items() if entries}
    return live, sorted({*write, *read} - {*live["write"], *live["read"]})


def _rewrite_locks(path: Path) -> None:
    with _dvc_guard(path):
        live, _ = _sort_locks(path)
        write_json(path, live)


@contextmanager
def _dvc_guard(path: Path) -> Iterator[None]:
    """Hold the lock under which every DVC process changes its lock file.

    Raises:
        StageBusy: A DVC process holds it at this moment.
    """
    # Not FileLock: that removes the file at the end, under the feet of a DVC that has opened it.
    with path.with_name("rwlock.lock").open("a+") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageBusy(
                "DVC at rest",
                found="a DVC process is changing its locks",
                where=str(path),
                mend="Ask again.",
            ) from None
        yield


def check_stage_holders(workspace: Workspace, *, fix: bool) -> Finding:
    """Look for records of stage runners whose lock is free."""
    holders = [
        p for p in _artifacts(workspace, ".*.holder.json") if _lock_is_free(p, ".holder.json")
    ]
    return _answer("stage locks", _names(workspace, holders), fix, lambda: _remove(holders))


def check_half_built(workspace: Workspace, *, fix: bool) -> Finding:
    """Look for outputs that were being built by a runner that is gone."""
    built = [p for p in _artifacts(workspace, ".*.building") if _lock_is_free(p, ".building")]
    return _answer("half-built outputs", _names(workspace, built), fix, lambda: _remove(built))


def check_extension_locks(*, fix: bool) -> Finding:
    """Look for locks of an interrupted C++ build, at which every later training would hang."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    folder = Path(given) if given else Path.home() / ".cache" / "torch_extensions"
    locks = [p for p in folder.rglob("lock") if p.is_file() and not _someone_works_in(p.parent)]
    return _answer("compiler locks", [str(p) for p in locks], fix, lambda: _remove(locks))


def check_experiments(workspace: Workspace, *, fix: bool) -> Finding:
    """Look for MLflow runs that count as running but have no live stage."""
    if not _has_experiments(workspace):
        return Finding("experiments", "ok", "no MLflow database yet")
    from tasks.tracking import EXPERIMENT, open_client

    client = open_client(workspace)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return Finding("experiments", "ok", "none yet")
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    dead = [run for run in runs if _stage_is_idle(workspace, run.data.tags.get("tessera.stage"))]

    def end_runs() -> None:
        for run in dead:
            client.set_terminated(run.info.run_id, "KILLED")

    names = [f"{run.info.run_name} ({run.info.run_id[:8]})" for run in dead]
    return _answer("experiments", names, fix, end_runs, what="MLflow runs without a live stage")


def check_project_folder(workspace: Workspace) -> Finding:
    """Compare where MLflow keeps its files with where the project is now."""
    fine = Finding("project folder", "ok", str(workspace.root))
    if not workspace.tracking_uri.startswith("sqlite") or not _has_experiments(workspace):
        return fine
    from tasks.tracking import EXPERIMENT, open_client

    experiment = open_client(workspace).get_experiment_by_name(EXPERIMENT)
    here = (workspace.state / "mlflow" / "artifacts").as_uri()
    if experiment is None or experiment.artifact_location == here:
        return fine
    return Finding(
        "project folder",
        "fail",
        f"MLflow's files are recorded at {experiment.artifact_location}",
        "Move the project back, or remove .tessera/mlflow and run again (DVC restores outputs).",
    )


def _has_experiments(workspace: Workspace) -> bool:
    return (workspace.state / "mlflow" / "mlflow.db").is_file()


def check_flow_runs(workspace: Workspace, *, fix: bool) -> Finding:
    """Look for flow runs that count as alive but have no process."""
    server = orchestrator(workspace)
    if server.home() is None:
        return Finding(
            "flow runs", "ok", "the Prefect server is down (dead runs are buried when it starts)"
        )
    if not server.is_local:
        return Finding("flow runs", "ok", f"not judged from here: {server.api} is another machine")
    dead = [run for run in server.runs_in_flight() if _is_dead(run)]
    names = [f"{run.name} ({run.state})" for run in dead]
    return _answer(
        "flow runs", names, fix, lambda: server.bury(dead), what="runs without a process"
    )


def _answer(
    name: str, found: list[str], fix: bool, mend: Callable[[], None], *, what: str = "left behind"
) -> Finding:
    """Turn what a check found into its answer, and mend it if that was asked for."""
    if not found:
        return Finding(name, "ok", "none left behind")
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    text = f"{what}: {', '.join(found[:_NAMED])}{more}"
    if not fix:
        return Finding(name, "warn", text, "tessera doctor --fix")
    mend()
    return Finding(name, "mended", text)


def _artifacts(workspace: Workspace, pattern: str) -> Iterator[Path]:
    yield from sorted(workspace.artifacts.rglob(pattern)) if workspace.artifacts.is_dir() else ()


def _names(workspace: Workspace, paths: list[Path]) -> list[str]:
    return [path.relative_to(workspace.root).as_posix() for path in paths]


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _lock_is_free(path: Path, suffix: str) -> bool:
    """Tell whether nobody holds the stage lock that stands beside ``.<stage><suffix>``."""
    return _free(path.with_name(path.name.removesuffix(suffix) + ".lock"))


def _stage_is_idle(workspace: Workspace, stage: str | None) -> bool:
    if stage is None:
        return False
    output = workspace.output(stage)
    return _free(output.with_name(f".{output.name}.lock"))


def _free(lock: Path) -> bool:
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def _is_dvc(entry: dict[str, Any]) -> bool:
    """Tell whether a lock's process lives and is still a DVC one; process ids are used again."""
    try:
        return any("dvc" in word for word in psutil.Process(int(entry["pid"])).cmdline())
    except psutil.Error:
        return False


def _dvc_at_work(folder: Path) -> list[int]:
    """Return the DVC processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any("dvc" in word for word in words) and Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def _someone_works_in(folder: Path) -> bool:
    """Tell whether a compiler works in a folder; builds run with it as working directory."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                return True
        except (psutil.Error, OSError):
            continue
    return False


def _is_dead(run: FlowRun) -> bool:
    return run.pid is not None and not psutil.pid_exists(run.pid)
