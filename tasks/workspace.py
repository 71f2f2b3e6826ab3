"""Where things are: the project folder, its state, and the environment of every child process.

The one idea: all state lives inside the project folder, so that deleting the folder deletes
everything and nothing on the machine is touched. Outputs are under ``artifacts/`` (tracked by
DVC), everything else under ``.tessera/`` (servers, registry, work in progress, the local DVC
remote). This module is the only reader of environment variables that say where things are.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ParamsError

QUIET = {
    # Nothing phones home. DO_NOT_TRACK must be the word: MLflow ignores "1".
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # Checkpoints are safetensors; a registry entry that needs unpickling is not ours.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PYTHONUNBUFFERED": "1",
}
"""Settings that every process of ours runs with."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of one project.

    Args:
        root: Folder that holds ``dvc.yaml`` and ``params.yaml``.
    """

    root: Path

    @property
    def state(self) -> Path:
        """Everything that is neither source nor output: servers, work in progress, locks."""
        return self.root / ".tessera"

    @property
    def artifacts(self) -> Path:
        """Outputs of the stages, one folder each."""
        return self.root / "artifacts"

    @property
    def params(self) -> Path:
        """The only file with numbers."""
        return self.root / "params.yaml"

    @property
    def lock_files(self) -> list[Path]:
        """The pinned, hash-checked environment; torch's two builds have files of their own."""
        return sorted((self.root / "infra" / "lock").glob("*.txt"))

    @property
    def tracking_uri(self) -> str:
        """MLflow store: ``MLFLOW_TRACKING_URI`` if set, else SQLite inside the project."""
        default = f"sqlite:///{self.state / 'mlflow' / 'mlflow.db'}"
        return os.environ.get("MLFLOW_TRACKING_URI", default)

    @property
    def shards(self) -> str:
        """Where trainings read shards from instead of ``artifacts``: ``TESSERA_SHARDS``, or nothing.

        A folder or ``s3://bucket/prefix`` with the folders ``pack`` and ``cache_targets``. It says
        where bytes lie and not which, so it is no parameter: nothing is trained again for it.
        """
        return os.environ.get("TESSERA_SHARDS", "").rstrip("/")

    @property
    def target_store(self) -> Path:
        """Targets by content, for every run that needs them again: ``TESSERA_TARGETS``, if set.

        A folder on a larger disk, or one that several projects share; relative to the project. Targets
        have the same bytes from anywhere, so it is no parameter.
        """
        return self.root / (os.environ.get("TESSERA_TARGETS") or self.state / "targets")

    def output(self, stage: str) -> Path:
        """Folder of a stage's output; ``distill@N`` is ``artifacts/distill/N``."""
        return self.artifacts.joinpath(*stage.split("@"))

    def environment(self) -> dict[str, str]:
        """Environment for a child process: the caller's, made quiet and kept in the project.

        DVC runs the stages' ``python`` by the search path, so this interpreter's folder leads it,
        whether or not somebody activated the environment.
        """
        return {
            **os.environ,
            **QUIET,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "TESSERA_ROOT": str(self.root),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "DVC_SITE_CACHE_DIR": str(self.state / "dvc-site"),
            "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(self.state / "prefect")),
        }


def find_workspace(start: Path | None = None) -> Workspace:
    """Find the project folder from ``TESSERA_ROOT`` or by walking up from ``start``.

    Raises:
        ParamsError: No folder upward holds both ``dvc.yaml`` and ``params.yaml``.
    """
    given = os.environ.get("TESSERA_ROOT")
    origin = Path(given) if given else (start or Path.cwd())
    for folder in (origin.resolve(), *origin.resolve().parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return Workspace(folder)
    raise ParamsError(
        "a project folder with dvc.yaml and params.yaml",
        found="none in it or above it",
        where=str(origin),
        mend="Run the command inside the repository, or set TESSERA_ROOT.",
    )
