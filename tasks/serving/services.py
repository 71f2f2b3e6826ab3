"""The servers behind the pipeline, started together and ended together: ``tessera up``.

One process owns them: it holds a lock, starts what does not answer yet (Prefect's server and worker,
MLflow's pages), and ends it again. Ending means: cancel the runs in flight and wait for them, since
a worker that is merely stopped leaves them "Running" for ever. Should the owner be killed outright,
its children die with it. Nothing here imports Prefect or MLflow: they are programs and addresses.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep

import psutil
from filelock import FileLock, Timeout

from tasks.errors import TesseraError
from tasks.files import write_json
from tasks.progress import say
from tasks.running import processes
from tasks.serving.orchestrator import FlowRun, Orchestrator, orchestrator
from tasks.serving.servers import (
    MARK,
    create_tracking_store,
    runs_page,
    start_mlflow,
    start_prefect,
    start_worker,
)
from tasks.workspace import Workspace

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_RUN_OF_PROCESS = "PREFECT__FLOW_RUN_ID"
_CANCEL_S = 60.0
_WATCH_S = 2.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers answer."""

    prefect: str
    mlflow: str | None
    """The list of runs; ``None`` where MLflow's pages were not asked for."""
    owner: str
    """The command that keeps the servers up: ``tessera up`` or ``tessera run``."""
    pid: int
    """Process that keeps them up."""


class ServicesBusy(TesseraError):
    """Another process of this project keeps the servers up."""

    def __init__(self, addresses: Addresses | None) -> None:
        self.addresses = addresses
        found = f"{addresses.owner} (process {addresses.pid})" if addresses else "one that starts"
        super().__init__(
            "no other process that keeps the servers up",
            found=found,
            where=".tessera/services.json",
            mend="Use those servers, or end that process with Ctrl-C first.",
        )


def up(workspace: Workspace) -> None:
    """Keep all servers up until Ctrl-C or SIGTERM.

    Raises:
        ServicesBusy: Another process does so.
        TesseraError: A port is taken, or a server did not start.
    """
    with (
        suppress(KeyboardInterrupt),
        ended_by_signals(),
        services(workspace, owner="tessera up", ui=True) as addresses,
    ):
        say(f"Prefect  {addresses.prefect}")
        say(f"MLflow   {addresses.mlflow}")
        say("Run      prefect deployment run tessera/full --watch")
        say("Ctrl-C stops the servers; runs in flight are cancelled.")
        children = psutil.Process().children()
        while all(child.status() != psutil.STATUS_ZOMBIE for child in children):
            sleep(_WATCH_S)
        raise TesseraError(
            "the servers to run until Ctrl-C",
            found="one of them has ended",
            where=str(workspace.state / "logs"),
            mend="Look at the logs there, then start again.",
        )


def running(workspace: Workspace) -> Addresses | None:
    """Return the addresses of the servers that a live process keeps up; ``None`` if none does."""
    try:
        with FileLock(_lock_path(workspace), timeout=0):
            return None
    except Timeout:
        return _recorded(workspace)


@contextmanager
def services(workspace: Workspace, *, owner: str, ui: bool) -> Iterator[Addresses]:
    """Start what does not answer yet, and end on leaving what was started.

    Args:
        workspace: The project.
        owner: The command on whose behalf, for the messages of others.
        ui: Whether to serve MLflow's pages too.

    Raises:
        ServicesBusy: Another process of this project keeps the servers up.
        TesseraError: A port is taken by another program, or a server did not start.
    """
    server = orchestrator(workspace)
    with ExitStack() as stack:
        _own(workspace, stack)
        alone = start_prefect(workspace, server, stack)
        if alone:
            # The server has only just come up, so no run that it remembers can be alive.
            server.bury(server.runs_in_flight())
        create_tracking_store(workspace)
        worker = start_worker(workspace, server, stack)
        pages = runs_page(start_mlflow(workspace, stack)) if ui else None
        addresses = Addresses(server.pages, pages, owner, os.getpid())
        write_json(_record_path(workspace), asdict(addresses))
        stack.callback(_record_path(workspace).unlink, missing_ok=True)
        # Called first on the way out, while server and worker are still there to obey.
        stack.callback(_cancel_runs, server, worker, alone=alone)
        stack.callback(_ignore_signals)
        yield addresses


def _own(workspace: Workspace, stack: ExitStack) -> None:
    """Take the lock that makes this process the owner, and clear what a killed owner left."""
    workspace.state.mkdir(exist_ok=True)
    lock = FileLock(_lock_path(workspace))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ServicesBusy(_recorded(workspace)) from None
    stack.callback(lock.release)
    processes.end_marked(MARK, str(workspace.root))


def own_runs(server: Orchestrator, worker: int, *, alone: bool) -> list[FlowRun]:
    """Return the runs in flight that end with us; those of other workers are none of our affair.

    A process id does not tell whose a run is: another machine gives the same ones. The processes
    that our worker has started name their run in their environment.

    Args:
        server: The Prefect server, which other projects may share.
        worker: Process id of our worker.
        alone: Whether the server is ours and ends with us too; a run that a worker has accepted
            but not started then counts as ours.
    """
    ours = set()
    for child in psutil.Process(worker).children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            ours.add(child.environ().get(_RUN_OF_PROCESS))
    return [run for run in server.runs_in_flight() if run.id in ours or (alone and run.pid is None)]


def _cancel_runs(server: Orchestrator, worker: int, *, alone: bool) -> None:
    """Cancel what our worker has in flight, and wait until it has ended."""
    try:
        for run in own_runs(server, worker, alone=alone):
            say(f"cancelling run {run.name}")
            server.cancel(run, wait_s=_CANCEL_S)
    except (TesseraError, psutil.NoSuchProcess) as error:
        say(f"runs in flight could not be cancelled: {error}")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a block the way Ctrl-C does: in order, leaving nothing behind.

    A signal that is ignored stays ignored: that is how ``nohup`` keeps a run alive after a logout.
    """
    numbers = [n for n in _ENDING if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _recorded(workspace: Workspace) -> Addresses | None:
    try:
        return Addresses(**json.loads(_record_path(workspace).read_text()))
    except OSError:
        return None


def _record_path(workspace: Workspace) -> Path:
    return workspace.state / "services.json"


def _lock_path(workspace: Workspace) -> Path:
    return workspace.state / "services.lock"
