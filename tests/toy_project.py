"""A toy project: the real flows, servers, Git and DVC, with stages that are one-line shell commands.

The packages are copied, so that the promotion gate can be replaced by a stub of the same manners
(exit codes and last line); everything between the command line and the stages is the real thing.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from tasks.running import processes
from tasks.serving.servers import MARK

REPOSITORY = Path(__file__).parents[1]
STAGES = ("ingest", "validate", "pack", "pretrain", "cache_targets", "evaluate", "export", "report")

_GATE = """
import json, pathlib, sys
kept = pathlib.Path("gate-keeps").exists()
print("gate: asked")
print("kept the incumbent 2: 0.41 against 0.44" if kept else "tessera-student 1 is at staging")
sys.exit(3 if kept else 0)
"""


@dataclass(frozen=True)
class Toy:
    """A toy project on the disk."""

    root: Path
    prefect_port: int
    mlflow_port: int
    variables: Mapping[str, str] = field(default_factory=dict)
    """More of the environment in which its commands run."""

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}/api"

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a user in this project: nothing of Prefect, DVC or ours is set."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT", "DVC", "TESSERA", "MLFLOW"))
        }
        return (
            kept
            | {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(self.root),
                "TESSERA_MLFLOW_PORT": str(self.mlflow_port),
                "DVC_NO_ANALYTICS": "1",
                "DVC_SITE_CACHE_DIR": str(self.root / ".tessera" / "dvc-site"),
                "DO_NOT_TRACK": "true",
                "TESSERA_GRACE_S": "5",  # for what does not end when it is asked
                "PYTHONWARNINGS": "default",
                "NO_COLOR": "1",
                "COLUMNS": "200",
            }
            | dict(self.variables)
            | more
        )

    def python(
        self, module: str, *arguments: str, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a module to its end in the project."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=check,
            timeout=600,
        )

    def start(
        self, module: str, *arguments: str, output: IO[str] | int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        """Start a module in the project, as from a terminal of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env=self.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - the tests start no threads
        )

    def servers(self) -> list[psutil.Process]:
        """Every process that the servers of this project are, or have started."""
        return processes.marked(MARK, str(self.root))

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[str]]:
        """Keep the servers up with `tessera up`; the output is in ``up.log``."""
        log = self.root / ".tessera" / "up.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as stream, self.start("tasks.cli", "up", output=stream) as owner:
            try:
                self.wait_for(lambda: "Ctrl-C stops" in log.read_text() or owner.poll() is not None)
                assert owner.poll() is None, log.read_text()
                yield owner
            finally:
                owner.terminate()
                owner.wait(timeout=180)

    def wait_for(self, happens: Callable[[], bool], *, limit_s: float = 300) -> None:
        """Wait until something happens; how long it takes is not what is tested."""
        deadline = time.monotonic() + limit_s
        while not happens():
            assert time.monotonic() < deadline, f"did not happen within {limit_s} s"
            time.sleep(0.2)

    def set_command(self, stage: str, command: str) -> None:
        """Give a stage another command: a script that DVC sees as a dependency."""
        (self.root / "stages" / f"{stage}.sh").write_text(command + "\n")


def _heed_ctrl_c() -> None:
    """Undo what a shell does to the programs that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def make_toy(root: Path) -> Toy:
    """Create the project in an empty folder."""
    root.mkdir(parents=True, exist_ok=True)
    for package in ("flows", "tasks", "models"):
        shutil.copytree(
            REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (root / "tasks" / "promote.py").write_text(_GATE)
    for name in ("params.yaml", "prefect.yaml"):
        shutil.copy(REPOSITORY / name, root / name)
    prefect_port, mlflow_port = free_ports(2)
    toy = Toy(root, prefect_port, mlflow_port)
    (root / "pyproject.toml").write_text(prefect_settings(toy.prefect_port))
    (root / ".gitignore").write_text(".tessera/\nartifacts/\n__pycache__/\n")
    _write_graph(toy)
    (root / "data").mkdir()
    (root / "data" / "tile.txt").write_text("1 2 3\n")
    for command in (["git", "init", "-q"], [*_DVC, "init", "-q"], [*_DVC, "add", "-q", "data"]):
        subprocess.run(command, cwd=root, env=toy.environment(), check=True, capture_output=True)
    return toy


_DVC = (sys.executable, "-m", "dvc")


def prefect_settings(port: int) -> str:
    """Return what `pyproject.toml` says of Prefect, with another port."""
    return f"""
[tool.prefect]
home = ".tessera/prefect"
[tool.prefect.api]
url = "http://127.0.0.1:{port}/api"
[tool.prefect.server]
analytics_enabled = false
[tool.prefect.server.api]
port = {port}
"""


def _write_graph(toy: Toy) -> None:
    upstream = {
        "ingest": ["data/tile.txt"],
        "validate": ["artifacts/ingest"],
        "pack": ["artifacts/validate"],
        "pretrain": ["artifacts/pack"],
        "cache_targets": ["artifacts/pretrain"],
        "evaluate": [f"artifacts/distill-{size}" for size in "NSML"],
        "export": ["artifacts/evaluate"],
        "report": ["artifacts/export"],
    }
    lines = ["stages:"]
    for stage in STAGES:
        lines += _stage(stage, upstream[stage], f"artifacts/{stage}")
    lines += _stage("distill", ["artifacts/cache_targets"], "artifacts/distill-${item.size}")
    lines += ["    matrix:", "      size: [N, S, M, L]"]
    (toy.root / "dvc.yaml").write_text("\n".join(lines) + "\n")
    (toy.root / "stages").mkdir()
    for stage in [*STAGES, "distill"]:
        toy.set_command(stage, 'mkdir -p artifacts; echo "working"; cat $2 > $1')


def _stage(name: str, inputs: list[str], output: str) -> list[str]:
    command = f"sh stages/{name}.sh {output} {' '.join(inputs)}"
    deps = [f"      - {path}" for path in [*inputs, f"stages/{name}.sh"]]
    return [
        f"  {name}:",
        f"    cmd: {command}",
        "    deps:",
        *deps,
        "    outs:",
        f"      - {output}",
    ]


def free_ports(number: int) -> list[int]:
    """Return ports that nothing listens on at this moment."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
