"""A project beside the project: the same code and graph, other settings, outputs of its own.

The one idea: whatever a stage does is the stage's. A trial or a study is a folder with links to the
sources, a params.yaml and its own state; its stages are the same programs that DVC runs, with the
same locks, checkpoints and manifests, so what was interrupted goes on where it stopped.

It deliberately does not use DVC: such a folder keeps what it made for as long as it stands.
"""

import io
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.errors import DigestMismatch, StageFailed
from tasks.files import write_bytes
from tasks.manifest import MANIFEST, read_manifest
from tasks.params import read_params
from tasks.running import processes
from tasks.workspace import Workspace

_SOURCES = ("dvc.yaml", "infra", "models", "tasks")

Changes = Mapping[str, Any]
"""Values by name; a mapping changes only what it names."""


def open_project(source: Workspace, root: Path, settings: Path, changes: Changes) -> Workspace:
    """Make a project, or take up one that is there.

    Args:
        source: The project whose code it runs.
        root: Its folder.
        settings: Complete file of settings; a relative path of the archive is the source's.
        changes: What this project changes in them, by section.

    Raises:
        ParamsError: The settings are not valid.
    """
    root.mkdir(parents=True, exist_ok=True)
    _link(source.root, root, _SOURCES)
    yaml = YAML()
    content = yaml.load(settings.read_text())
    _change(content, changes)
    content["ingest"]["archive"] = str(source.root / content["ingest"]["archive"])
    text = io.StringIO()
    yaml.dump(content, text)
    workspace = Workspace(root)
    write_bytes(workspace.params, text.getvalue().encode())
    read_params(workspace.params)
    return workspace


def share_outputs(source: Workspace, project: Workspace, stages: Sequence[str]) -> None:
    """Let a project read what the source's stages made."""
    project.artifacts.mkdir(exist_ok=True)
    _link(source.artifacts, project.artifacts, stages)


def is_complete(project: Workspace, stage: str) -> bool:
    """Whether a stage's output is there, whole and unchanged."""
    if not (project.output(stage) / MANIFEST).is_file():
        return False
    try:
        read_manifest(project.output(stage), verify=True)
    except DigestMismatch:
        return False
    return True


def complete(project: Workspace, stage: str, environment: Mapping[str, str]) -> Path:
    """Return the output of a stage, running the stage if it is not complete.

    Args:
        project: Where.
        stage: Address in ``dvc.yaml``.
        environment: Added to that of the stage's process.

    Raises:
        StageFailed: The stage ended with an error; what it printed is in ``<stage>.log``.
    """
    if is_complete(project, stage):
        return project.output(stage)
    name, _, size = stage.partition("@")
    command = processes.python(f"tasks.{name}", *(["--size", size] if size else []))
    log = project.root / f"{stage}.log"
    with log.open("w") as output:
        child = processes.start(
            command,
            folder=project.root,
            environment=project.environment() | dict(environment),
            output=output,
        )
        code = _wait(child)
    if code:
        lines = log.read_text(errors="replace").splitlines()
        raise StageFailed(
            "the stage to succeed",
            found=lines[-1] if lines else f"exit code {code}",
            where=f"{stage} of {project.root}",
            mend=f"See {log}. Run again: what is done is kept.",
        )
    return project.output(stage)


def _wait(child: subprocess.Popen[str]) -> int:
    with child:
        try:
            return child.wait()
        finally:
            processes.end(child.pid)  # reached by a cancellation too


def _link(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if not (target / name).is_symlink():
            (target / name).symlink_to((source / name).resolve())


def _change(content: dict[str, Any], changes: Changes) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping):
            _change(content[name], value)
        else:
            content[name] = value
