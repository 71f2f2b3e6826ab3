"""The stage contract, kept by every stage: one writer, resumable, complete or absent.

What a stage owes, in the order in which it happens:

1. It dies with the process that runs it (``tasks.lifeline``).
2. It holds an operating-system lock beside its output; a second runner waits, by name, and then
   takes over what the first one finished instead of doing it again.
3. It checks every file of its parents against their manifests before it reads them.
4. It keeps resumable state in a work folder named by its inputs and parameters, outside every DVC
   output (DVC deletes outputs before a run).
5. It builds the output aside; ``manifest.json`` seals it, and one rename makes it real.

The stage's own code is a function ``body(stage)`` that fills ``stage.build``.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from tasks.errors import DigestMismatch, TesseraError
from tasks.files import canonical_json, sha256_of, swap_folder, sync_tree, write_bytes
from tasks.lifeline import die_with_runner
from tasks.lock import only_writer
from tasks.manifest import MANIFEST, Manifest, describe_files, digest_of, read_manifest
from tasks.params import Params, read_params
from tasks.preempted import ends_on_request, leave_with
from tasks.progress import say
from tasks.provenance import write_provenance
from tasks.tracking import Tracker, track_stage
from tasks.workspace import Workspace, find_workspace

_FINISHED = "finished"


@dataclass(slots=True)
class Stage:
    """What a stage's body is given: where to read, where to write, what to report."""

    name: str
    """Address in ``dvc.yaml``, e.g. ``pack`` or ``distill@N``."""
    workspace: Workspace
    parents: Mapping[str, Path]
    """Verified output folders of the stages that this one reads, by name."""
    build: Path
    """Empty folder to fill; it becomes the output."""
    work: Path
    """Resumable state of exactly this computation; survives a crash."""
    tracker: Tracker
    """The MLflow run of this execution."""
    counts: dict[str, float] = field(default_factory=dict)
    """What was made, for the manifest."""
    measured: dict[str, Any] = field(default_factory=dict)
    """What differs between two equal runs (rates, what was re-used), for the provenance."""


def stage_main(run: Callable[[Workspace, Params], None]) -> None:
    """Run a stage as a program: settings in, message and exit code out.

    A user's error is printed in one line and exits with 1, a request to end with 75, which means
    "again"; anything else is a defect of ours and keeps its traceback.
    """
    die_with_runner()
    workspace = find_workspace()
    os.environ.update(workspace.environment())
    try:
        run(workspace, read_params(workspace.params))
    except (TesseraError, ValueError) as error:
        leave_with(error)


def run_stage(
    name: str,
    body: Callable[[Stage], None],
    *,
    workspace: Workspace,
    section: BaseModel,
    parents: tuple[str, ...] = (),
    inputs: Mapping[str, str] | None = None,
    also: Mapping[str, Any] | None = None,
) -> Manifest:
    """Execute a stage under the contract of this module.

    Args:
        name: Stage address in ``dvc.yaml``.
        body: Fills ``stage.build``; may resume from ``stage.work``.
        workspace: The project.
        section: The stage's resolved parameters.
        parents: Stages whose outputs the body reads; the last one is the main parent.
        inputs: Digests of inputs that no stage made, by name.
        also: Settings of other sections that the bytes depend on, in plain JSON types.

    Returns:
        The manifest of the finished output.

    Raises:
        StageBusy: The lock was not free within a day.
        Preempted: The process was asked to end (SIGTERM).
        LineageError: A parent is not complete.
        DigestMismatch: A parent's bytes differ from its manifest.
    """
    final = workspace.output(name)
    final.parent.mkdir(parents=True, exist_ok=True)
    settings = section.model_dump(mode="json") | dict(also or {})
    with ends_on_request(workspace, name), only_writer(final) as waited:
        folders = {parent: workspace.output(parent) for parent in parents}
        plan = _plan(name, workspace, settings, folders, dict(inputs or {}))
        if waited and (done := _finished_by_another(final, plan)):
            say(f"{name}: already made by the run that held the lock")
            return done
        return _execute(plan, body, workspace, folders)


def _finished_by_another(final: Path, plan: Manifest) -> Manifest | None:
    if not (final / MANIFEST).is_file():
        return None
    try:
        found = read_manifest(final, verify=True)
    except (DigestMismatch, FileNotFoundError):
        return None  # damaged, or DVC is relinking its files at this moment
    return found if found.key == plan.key else None


def _plan(
    name: str,
    workspace: Workspace,
    settings: dict[str, Any],
    folders: dict[str, Path],
    inputs: dict[str, str],
) -> Manifest:
    """Verify the parents and say what would be made; ``files`` and ``counts`` are still empty."""
    for folder in folders.values():
        read_manifest(folder, verify=True)
    digests = {parent: digest_of(folder) for parent, folder in folders.items()} | inputs
    facts: dict[str, Any] = {
        "stage": name,
        "params": settings,
        "parents": digests,
        "code": code_digest(workspace, name),
        "lock": lock_digest(workspace),
    }
    key = sha256(canonical_json(facts).encode()).hexdigest()
    return Manifest(key=key, counts={}, files={}, **facts)


def _execute(
    plan: Manifest, body: Callable[[Stage], None], workspace: Workspace, folders: dict[str, Path]
) -> Manifest:
    final = workspace.output(plan.stage)
    build = final.with_name(f".{final.name}.building")
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    work = workspace.state / "work" / plan.stage / plan.key[:16]
    _discard_recorded_work(workspace, plan.stage, work)
    resumed = work.exists()
    work.mkdir(parents=True, exist_ok=True)
    if resumed:
        say(f"{plan.stage}: resuming from {work.relative_to(workspace.root)}")
    started = time.monotonic()
    with track_stage(workspace, plan) as tracker:
        stage = Stage(plan.stage, workspace, folders, build, work, tracker)
        body(stage)
        manifest = _seal(plan, stage)
        tracker.log_output(build, manifest)
        provenance = {
            "wall_s": round(time.monotonic() - started, 3),
            "resumed": resumed,
            "mlflow_run": tracker.run_id,
            **stage.measured,
        }
        write_provenance(workspace, manifest, provenance)
        swap_folder(build, final)
    (work / _FINISHED).touch()
    for other in work.parent.glob("*"):
        if other != work:
            shutil.rmtree(other)
    say(f"{plan.stage}: done in {provenance['wall_s']:.1f} s, {_summary(manifest)}")
    return manifest


def _discard_recorded_work(workspace: Workspace, stage: str, work: Path) -> None:
    """Drop finished work that is not needed any more.

    Finished work outlives its stage until DVC has recorded the output: DVC removes an output that it
    has not recorded, and a training must not be lost to a crash between the stage's last byte and
    DVC's. By hand there is no such step, and a rerun means to do it again.
    """
    finished = work / _FINISHED
    recorded = _graph_folder(workspace, stage) / "dvc.lock"
    if not finished.exists():
        return
    newer = recorded.exists() and recorded.stat().st_mtime_ns >= finished.stat().st_mtime_ns
    if newer or "DVC_STAGE" not in os.environ:
        shutil.rmtree(work)


def _seal(plan: Manifest, stage: Stage) -> Manifest:
    """Describe what was built and write the manifest, after everything else is on the disk."""
    manifest = Manifest(
        stage=plan.stage,
        key=plan.key,
        params=plan.params,
        parents=plan.parents,
        code=plan.code,
        lock=plan.lock,
        counts=dict(sorted(stage.counts.items())),
        files=describe_files(stage.build),
    )
    sync_tree(stage.build)
    write_bytes(stage.build / MANIFEST, manifest.to_bytes())
    return manifest


def _summary(manifest: Manifest) -> str:
    size = sum(entry["size"] for entry in manifest.files.values())
    counts = ", ".join(f"{value:g} {name}" for name, value in manifest.counts.items())
    return f"{len(manifest.files)} files, {size / 1e6:.2f} MB" + (f" ({counts})" if counts else "")


def code_digest(workspace: Workspace, name: str) -> str:
    """Digest the source files that DVC's graph declares for a stage.

    The graph is the one list of what a stage's code is; a test holds it against the import closure
    of the module.
    """
    stage = name.split("@", maxsplit=1)[0]
    graph = YAML(typ="safe").load((_graph_folder(workspace, stage) / "dvc.yaml").read_text())
    deps = graph["stages"][stage]["deps"]
    sources = {
        path.relative_to(workspace.root).as_posix(): sha256_of(path)
        for dep in deps
        if dep.startswith(("tasks/", "models/"))
        for path in _sources_of(workspace.root / dep)
    }
    return sha256(canonical_json(sources).encode()).hexdigest()


def _graph_folder(workspace: Workspace, stage: str) -> Path:
    """Return the folder of the ``dvc.yaml`` that has the stage: a stage on demand has its own."""
    own = workspace.root / "infra" / stage.split("@", maxsplit=1)[0]
    return own if (own / "dvc.yaml").is_file() else workspace.root


def lock_digest(workspace: Workspace) -> str:
    """Digest the lock files together: everything that is installed, torch's build included."""
    pins = {path.name: sha256_of(path) for path in workspace.lock_files}
    return sha256(canonical_json(pins).encode()).hexdigest()


def _sources_of(path: Path) -> list[Path]:
    ours = [path] if path.is_file() else path.rglob("*")
    return [p for p in ours if p.is_file() and "__pycache__" not in p.parts]
