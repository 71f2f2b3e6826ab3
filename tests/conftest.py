"""Fixtures for lifetimes only: a quiet environment, folders, and costly things made once."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tasks.running.graph import ON_DEMAND
from tasks.workspace import QUIET, Workspace
from tests.project import CRASH, make_project, repro

os.environ.update(QUIET)
# Two workers share two cores: kernels of several threads would wait for each other at every step.
os.environ["OMP_NUM_THREADS"] = "1"
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


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a project after an uninterrupted run, made once for all workers: to copy only.

    First up to the students, then the rest. ``../writes/<stage>`` lists the renames of each stage.
    """
    from tasks.tracking import open_client

    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished"
    root, writes, done = shared / "project", shared / "writes", shared / "done"
    with FileLock(shared.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(shared, ignore_errors=True)
            writes.mkdir(parents=True)
            # With a database already there, the first stage has the writes of any later run.
            open_client(make_project(root))
            repro(root, "distill", CRASH_COUNT=str(writes), PYTHONPATH=CRASH)
            assert not (root / "artifacts" / "evaluate").exists()
            repro(root, CRASH_COUNT=str(writes), PYTHONPATH=CRASH)
            repro(root, ON_DEMAND, CRASH_COUNT=str(writes), PYTHONPATH=CRASH)
            done.touch()
    return root


@pytest.fixture
def workspace(tmp_path: Path, mlflow_template: Path) -> Workspace:
    """A project folder with the real graph and settings, a lock file, and an empty registry."""
    repository = Path(__file__).parents[1]
    root = tmp_path / "project"
    for name in ("dvc.yaml", ON_DEMAND, "params.yaml", "infra/lock/requirements.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, root / name)
    for name in ("tasks", "models"):
        (root / name).symlink_to(repository / name)
    found = Workspace(root)
    (found.state / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_template, found.state / "mlflow" / "mlflow.db")
    return found
