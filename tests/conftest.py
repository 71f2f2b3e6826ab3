"""Fixtures for lifetimes only: a quiet environment, folders, and costly things made once."""

import os
import shutil
from pathlib import Path

import pytest

from tasks.workspace import QUIET, Workspace

os.environ.update(QUIET)
# A flow run's or a pipeline's own settings must not leak into the projects that tests make.
for name in ("DVC_STAGE", "DVC_ROOT", "TESSERA_ROOT", "TESSERA_FLOW_RUN", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real Sentinel data and golden outputs, outside the repository; skips without."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("TESSERA_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}: set TESSERA_SHARED to a folder that holds it")
    return folder


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds, so they run once."""
    from tasks.tracking import open_client

    root = tmp_path_factory.mktemp("mlflow-template")
    open_client(Workspace(root))
    return root / ".tessera" / "mlflow" / "mlflow.db"


@pytest.fixture
def workspace(tmp_path: Path, mlflow_template: Path) -> Workspace:
    """A project folder with the real graph and settings, a lock file, and an empty registry."""
    repository = Path(__file__).parents[1]
    root = tmp_path / "project"
    (root / "infra" / "lock").mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", "infra/lock/requirements.txt"):
        shutil.copy(repository / name, root / name)
    for name in ("tasks", "models"):
        (root / name).symlink_to(repository / name)
    found = Workspace(root)
    (found.state / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_template, found.state / "mlflow" / "mlflow.db")
    return found
