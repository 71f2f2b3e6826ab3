"""A whole project in a temporary folder: the repository's files, a tiny archive, small settings.

Real git, real DVC, the real stages; only sizes are small, so that the whole graph runs in about a
minute.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from ruamel.yaml import YAML

from tasks.running.graph import ON_DEMAND
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.workspace import Workspace

REPOSITORY = Path(__file__).parents[1]
CRASH = str(Path(__file__).parent / "crash")
"""On the ``PYTHONPATH`` of a stage, kills it at a write or counts its writes."""
SOURCES = ("flows", "tasks", "models", "infra", "dvc.yaml", "params.yaml", "pyproject.toml")
MORE_SOURCES = ("prefect.yaml", ".gitignore")

SMALL: dict[str, dict[str, object]] = {
    "validate": {"min_optical_dates": 10},
    "pack": {"rows_per_shard": 640, "block_rows": 64, "threads": 1},
    "pretrain": {
        "architecture": {
            "latent": 4,
            "layers": 1,
            "heads": 2,
            "feedforward": 16,
            "repr_dim": 32,
            "fusion_layers": 1,
            "fusion_heads": 2,
        },
        "projector": {"width": 48, "layers": 2},
        "batch_size": 64,
        "steps": 8,
        "probe_every": 3,
        "execution": {"checkpoint_every": 3, "threads": 1},
    },
    "cache_targets": {"threads": 1},
    "distill": {
        "students": {
            size: {"latent": latent, "layers": 1, "heads": 2, "feedforward": 16}
            for size, latent in zip("NSML", (2, 3, 4, 5), strict=True)
        },
        "batch_size": 64,
        "steps": 8,
        "probe_every": 3,
        "execution": {"checkpoint_every": 3, "threads": 1},
    },
    "evaluate": {"max_dpixels": 600, "min_dpixels": 20, "bootstrap": 20, "threads": 1},
    "export": {"threads": 1},
}
"""Sections of ``params.yaml`` for a run in about a minute."""


def make_project(root: Path, *, archive: str = "data", num_tiles: int = 3) -> Workspace:
    """Build the project: sources under git, DVC set up, a sample of three 20 px tiles a year.

    Args:
        root: Folder to make.
        archive: What ``ingest.archive`` says; with ``data`` the sample is simulated.
        num_tiles: Tiles of the sample.
    """
    root.mkdir(parents=True)
    for name in (*SOURCES, *MORE_SOURCES):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    write_settings(root, SMALL | {"ingest": {"archive": archive}})
    if archive == "data":
        config = SimulatorConfig(seed=3, num_tiles=num_tiles, tile_size_px=20, years=(2021, 2022))
        write_archive(config, root / "data")
    run(root, "git", "init", "-q", "-b", "main")
    run(root, sys.executable, "-m", "dvc", "init", "-q")
    shutil.copy(REPOSITORY / ".dvc" / "config", root / ".dvc" / "config")
    shutil.copy(REPOSITORY / ".dvcignore", root / ".dvcignore")
    site = str(root / ".tessera" / "dvc-site")
    run(root, sys.executable, "-m", "dvc", "config", "--local", "core.site_cache_dir", site)
    if archive == "data":
        run(root, sys.executable, "-m", "dvc", "add", "-q", "data")
    commit(root, "Start")
    return Workspace(root)


def write_settings(root: Path, changes: dict[str, dict[str, object]]) -> None:
    """Change sections of the project's ``params.yaml``."""
    yaml = YAML()
    content = yaml.load((root / "params.yaml").read_text())
    for section, wanted in changes.items():
        values = dict(wanted)
        execution = values.pop("execution", None)
        if execution is not None:
            content[section]["execution"].update(execution)
        content[section].update(values)
    with (root / "params.yaml").open("w") as stream:
        yaml.dump(content, stream)


def commit(root: Path, message: str) -> None:
    """Commit everything, as nobody in particular."""
    run(root, "git", "add", "-A")
    identity = ("-c", "user.name=tessera", "-c", "user.email=tessera@localhost")
    run(root, "git", *identity, "commit", "-q", "-m", message)


def environment(root: Path, **more: str) -> dict[str, str]:
    """Environment of a command in the project: its own Python first, state inside the project."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return Workspace(root).environment() | {"PATH": path, "OMP_NUM_THREADS": "1"} | more


def run(root: Path, *command: str, code: int = 0, **more: str) -> str:
    """Run a command in the project and return what it printed; fails the test on another code."""
    done = subprocess.run(
        command,
        cwd=root,
        env=environment(root, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"
    return done.stdout


def repro(root: Path, *arguments: str, code: int = 0, **more: str) -> str:
    """Run ``dvc repro`` in the project."""
    command = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *arguments)
    return run(root, *command, code=code, **more)


def forget(root: Path, stages: Sequence[str]) -> None:
    """Remove outputs and all that DVC could restore them by; its lock file names what is cached."""
    locks = (root / "dvc.lock", (root / ON_DEMAND).with_suffix(".lock"))
    for lock in filter(Path.exists, locks):
        content = YAML(typ="safe").load(lock.read_text())
        for stage in stages:
            content["stages"].pop(stage, None)
        with lock.open("w") as stream:
            YAML().dump(content, stream)
    for stage in stages:
        shutil.rmtree(Workspace(root).output(stage), ignore_errors=True)
    shutil.rmtree(root / ".dvc" / "cache" / "runs", ignore_errors=True)


def output_digests(root: Path) -> dict[str, str]:
    """Return the digest of every output file; provenance (clock, commit) is left out."""
    artifacts = root / "artifacts"
    return {
        path.relative_to(artifacts).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(artifacts.rglob("*"))
        if path.is_file()
        and "provenance" not in path.parts
        and not path.relative_to(artifacts).name.startswith(".")
    }
