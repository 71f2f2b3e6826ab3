"""How each server is started, and how it is known to answer: Prefect's two, and MLflow's pages.

They are programs and addresses; nothing here imports Prefect or MLflow. A server that belongs to
this project and answers already is used as it is; a port in use by anybody else is an error that
names the program. When they start and end together is decided in ``tasks.serving.services``.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from tasks.errors import TesseraError
from tasks.running import processes
from tasks.serving.orchestrator import POOL, Orchestrator, orchestrator
from tasks.workspace import Workspace

MARK = "TESSERA_SERVICES"
"""Environment variable that names the project to its servers and to all that they start."""

_START_S = 240.0  # a cold start migrates a database; on a loaded machine that takes minutes
_TAIL_LINES = 12


def mlflow_url(workspace: Workspace) -> str:
    """Return where MLflow's pages are: its server's address, or the port on this machine."""
    if _is_server(workspace.tracking_uri):
        return workspace.tracking_uri.rstrip("/")
    return f"http://127.0.0.1:{workspace.environment().get('TESSERA_MLFLOW_PORT', '5000')}"


def runs_page(pages: str) -> str:
    """Return where MLflow lists every run, the newest first.

    Sorted by their start, as by default, MLflow folds all runs of a pipeline under its first one.

    Args:
        pages: Where MLflow's pages are.

    Returns:
        The list's address; the front page's where the server does not tell of the experiment, as
        one that asks for a password.
    """
    question = f"{pages}/api/2.0/mlflow/experiments/get-by-name?experiment_name=tessera"
    try:
        with urlopen(question, timeout=5) as answer:  # noqa: S310 - the server that we link to
            experiment = json.load(answer)["experiment"]["experiment_id"]
    except (OSError, ValueError, KeyError):
        return pages
    view = "workflowType=machine_learning&orderByKey=attributes.end_time"
    return f"{pages}/#/experiments/{experiment}/runs?{view}"


def create_tracking_store(workspace: Workspace) -> None:
    """Create MLflow's database and experiment before anybody needs them, in a process of its own.

    Its migrations take seconds and break when two processes start them at once.
    """
    if not workspace.tracking_uri.startswith("sqlite"):
        return
    if (workspace.state / "mlflow" / "mlflow.db").exists():
        return
    code = (
        "from tasks import tracking, workspace; here = workspace.find_workspace(); "
        "tracking.experiment_id(tracking.open_client(here), here)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=workspace.root,
        env=workspace.environment(),
        check=True,
        stderr=subprocess.DEVNULL,
    )


def start_prefect(workspace: Workspace, server: Orchestrator, stack: ExitStack) -> bool:
    """Start Prefect's server, unless one with this project's state answers, or a remote one.

    Returns:
        Whether it was started here; the stack ends it.

    Raises:
        TesseraError: Its port is taken, it did not start, or a remote one does not answer.
    """
    home = server.home()
    ours = Path(workspace.environment()["PREFECT_HOME"])
    if home is not None and (not server.is_local or home.resolve() == ours.resolve()):
        return False
    if not server.is_local:
        raise TesseraError(
            "the Prefect server that PREFECT_API_URL names",
            found="no answer",
            where=server.api,
            mend="Start it there, or unset PREFECT_API_URL to use one on this machine.",
        )
    _refuse_taken_port(server.host, server.port, setting="PREFECT_API_URL")
    address = ("--host", server.host, "--port", str(server.port))
    command = processes.python("prefect", "server", "start", *address)
    child = _start(workspace, "prefect-server", command, stack)
    _until(lambda: server.home() is not None, child, workspace, "prefect-server")
    return True


def start_worker(workspace: Workspace, server: Orchestrator, stack: ExitStack) -> int:
    """Register pool and deployment, then start a worker that takes one run at a time.

    Returns:
        The worker's process id; the stack ends it.

    Raises:
        TesseraError: The deployment was refused, or the worker did not start.
    """
    prefect(workspace, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    prefect(workspace, "--no-prompt", "deploy", "--all")
    name = f"tessera-{os.getpid()}"
    options = ("--pool", POOL, "--name", name, "--limit", "1")
    child = _start(
        workspace, "prefect-worker", processes.python("prefect", "worker", "start", *options), stack
    )
    _until(lambda: server.worker_is_online(name), child, workspace, "prefect-worker")
    return child.pid


def start_mlflow(workspace: Workspace, stack: ExitStack) -> str:
    """Serve MLflow's pages from one process, on this machine only.

    A tracking server that ``MLFLOW_TRACKING_URI`` names has its own pages; then nothing is started.

    Returns:
        Their address; the stack ends the server.

    Raises:
        TesseraError: The port is taken, or the server did not start.
    """
    pages = mlflow_url(workspace)
    if _is_server(workspace.tracking_uri):
        return pages
    port = int(pages.rsplit(":", 1)[1])
    _refuse_taken_port("127.0.0.1", port, setting="TESSERA_MLFLOW_PORT")
    store = ("--backend-store-uri", workspace.tracking_uri)
    root = ("--default-artifact-root", (workspace.state / "mlflow" / "artifacts").as_uri())
    listen = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    command = processes.python("mlflow", "server", *store, *root, *listen)
    child = _start(workspace, "mlflow", command, stack)
    _until(lambda: _answers(f"{pages}/health"), child, workspace, "mlflow")
    return pages


def prefect(workspace: Workspace, *arguments: str) -> None:
    """Run a command of Prefect's own command line in the project.

    Raises:
        TesseraError: It failed; the text carries the end of what it said.
    """
    done = subprocess.run(
        processes.python("prefect", *arguments),
        cwd=workspace.root,
        env=service_environment(workspace),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-_TAIL_LINES:]
        raise TesseraError(
            f"`prefect {' '.join(arguments)}` to work",
            found=" / ".join(said),
            where=str(workspace.root / "prefect.yaml"),
            mend="Run that command by hand to see all of its output.",
        )


def service_environment(workspace: Workspace) -> dict[str, str]:
    """Return the environment of the servers: the project's, with the server's address."""
    server = orchestrator(workspace)
    return workspace.environment() | {
        "PREFECT_API_URL": server.api,
        "PREFECT_SERVER_API_PORT": str(server.port),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


def _start(
    workspace: Workspace, name: str, command: list[str], stack: ExitStack
) -> subprocess.Popen[str]:
    path = workspace.state / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    log = stack.enter_context(path.open("w"))
    environment = service_environment(workspace) | {MARK: str(workspace.root)}
    child = processes.start(command, folder=workspace.root, environment=environment, output=log)
    stack.callback(child.wait)
    stack.callback(processes.end, child.pid)
    return child


def _until(
    answers: Callable[[], bool], child: subprocess.Popen[str], workspace: Workspace, name: str
) -> None:
    deadline = monotonic() + _START_S
    while not answers():
        if child.poll() is None and monotonic() < deadline:
            sleep(0.2)
            continue
        log = workspace.state / "logs" / f"{name}.log"
        tail = " / ".join(log.read_text().strip().splitlines()[-_TAIL_LINES:])
        ended = "no answer" if child.poll() is None else f"exit code {child.returncode}"
        raise TesseraError(
            f"{name} to answer within {_START_S:.0f} s",
            found=f"{ended}: {tail}",
            where=str(log),
            mend="Mend what the log names, then try again.",
        )


def _refuse_taken_port(host: str, port: int, *, setting: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            free = _free_port()
            example = f"http://{host}:{free}/api" if setting == "PREFECT_API_URL" else str(free)
            raise TesseraError(
                "a free port",
                found=f"port {port} is used by {_listener(port)}",
                where=f"{host}:{port}",
                mend=f"End that program, or choose another port: {setting}={example}",
            ) from None


def _listener(port: int) -> str:
    """Name the program that listens on a port, as far as this user may know."""
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or connection.laddr.port != port:
            continue
        if connection.pid:
            process = psutil.Process(connection.pid)
            return f"process {process.pid} ({' '.join(process.cmdline()[:6]) or process.name()})"
    return "another program"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_server(tracking_uri: str) -> bool:
    return tracking_uri.startswith(("http://", "https://"))


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310 - our own server
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
