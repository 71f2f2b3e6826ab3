"""What differs between two equal runs: clock, commit, machine, and who asked.

It is kept beside the manifests, so that equal inputs give equal outputs to the byte.
"""

import os
import platform
import subprocess
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from tasks.files import write_json
from tasks.manifest import Manifest
from tasks.workspace import Workspace


def write_provenance(workspace: Workspace, manifest: Manifest, measured: dict[str, Any]) -> None:
    """Write ``artifacts/provenance/<stage>.json``.

    Args:
        workspace: The project.
        manifest: What was made.
        measured: Facts of this run alone: wall time, whether it resumed, its MLflow run.
    """
    commit, dirty = _commit(workspace.root)
    content = {
        "stage": manifest.stage,
        "manifest": sha256(manifest.to_bytes()).hexdigest(),
        "commit": commit,
        "dirty": dirty,
        "finished": now(),
        "door": door(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **measured,
    }
    write_json(workspace.artifacts / "provenance" / f"{manifest.stage}.json", content)


def _commit(root: Path) -> tuple[str | None, bool | None]:
    """Return the commit and whether tracked files differ from it; ``None`` without a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def door() -> str:
    """Return by which door this process was started."""
    if "TESSERA_FLOW_RUN" in os.environ:
        return f"prefect flow run {os.environ['TESSERA_FLOW_RUN']}"
    return "dvc repro" if "DVC_STAGE" in os.environ else "by hand"


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
