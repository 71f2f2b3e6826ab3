"""Run the deployment ``tessera/full`` and show what happens: ``tessera run``, ``make full``.

If nothing is to do, the answer comes at once and no server is started. Else the flow run goes
through the same deployment, server and worker as every other; the ones that are not up are brought
up for this run and ended with it. The terminal follows the run's journal on the disk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from tasks.errors import StageBusy, StageFailed
from tasks.params import set_archive, use_params
from tasks.progress import say
from tasks.running.graph import outdated, stages
from tasks.running.journal import Journal, Receipt
from tasks.running.outcome import Outcome, outcome
from tasks.running.reproduce import promote
from tasks.serving.orchestrator import DEPLOYMENT, FlowRun, Orchestrator, orchestrator
from tasks.serving.services import ServicesBusy, ended_by_signals, running, services
from tasks.workspace import Workspace

_OWNER = "tessera run"
_POLL_S = 0.5
_CANCEL_S = 60.0


def run_full(
    workspace: Workspace,
    *,
    params: Path | None = None,
    archive: Path | None = None,
    start: str | None = None,
    force: bool = False,
) -> Outcome:
    """Bring the whole pipeline up to date and return what it came to.

    Args:
        workspace: The project.
        params: File of settings to use from now on.
        archive: Folder of tile folders to use from now on.
        start: Stage to start at; what is before it must be up to date.
        force: Run every stage even if nothing has changed.

    Raises:
        StageFailed: The run did not complete; carries the failed stage's own message.
        ServicesBusy: Another ``tessera run`` of this project is under way.
        TesseraError: Settings are not valid, or a server did not start.
    """
    if params:
        use_params(params, workspace.params)
    if archive:
        set_archive(workspace.params, _as_written(workspace, archive))
    if not force and start is None and (done := _nothing_to_do(workspace)):
        return done
    with ended_by_signals(), _servers(workspace):
        server = orchestrator(workspace)
        run = server.start_run({"start": start, "force": force})
        say(f"{DEPLOYMENT} is run {run.name}: {server.pages}/runs/flow-run/{run.id}")
        ended = _follow(server, run, Journal(workspace, run.id))
    return _conclude(workspace, ended)


def _as_written(workspace: Workspace, archive: Path) -> str:
    """Write a folder inside the project relative to it, so that the settings can be shared."""
    full = archive.resolve()
    inside = full.is_relative_to(workspace.root)
    return full.relative_to(workspace.root).as_posix() if inside else str(full)


def _nothing_to_do(workspace: Workspace) -> Outcome | None:
    """Return the outcome if every stage is up to date and the gate has no news; else ``None``."""
    try:
        if outdated(workspace):
            return None
    except StageBusy:
        return None
    say("Every stage is up to date; nothing to run.")
    journal = Journal(workspace, "idle")
    journal.clear()
    gate = promote(journal, say=_silent)
    return outcome(workspace, [*(Receipt(s, "up to date", 0.0) for s in stages(workspace)), gate])


def _silent(_line: str) -> None:
    return


@contextmanager
def _servers(workspace: Workspace) -> Iterator[None]:
    """Use the servers that `tessera up` keeps up, or bring up what a run needs for the time being."""
    if up := running(workspace):
        if up.owner == _OWNER:  # they would end under this run's feet when that one ends
            raise ServicesBusy(up)
        yield
        return
    say("Starting the Prefect server and a worker for this run (logs: .tessera/logs)")
    with services(workspace, owner=_OWNER, ui=False):
        yield


def _follow(server: Orchestrator, run: FlowRun, journal: Journal) -> FlowRun:
    """Print the run's output until it has ended; being interrupted cancels it."""
    shown = 0
    try:
        while True:
            now = server.run(run.id)
            shown = _print_new_lines(journal, shown)
            if now.ended:
                return now
            sleep(_POLL_S)
    except KeyboardInterrupt:
        say(f"cancelling run {run.name}")
        server.cancel(run, wait_s=_CANCEL_S)
        raise


def _print_new_lines(journal: Journal, shown: int) -> int:
    """Print the log beyond the first ``shown`` bytes, whole lines only; return how many now."""
    if not journal.log.is_file():
        return shown
    with journal.log.open("rb") as stream:
        stream.seek(shown)
        new = stream.read()
    whole = new[: new.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        say(line)
    return shown + len(whole)


def _conclude(workspace: Workspace, run: FlowRun) -> Outcome:
    found = outcome(workspace, Journal(workspace, run.id).receipts())
    if run.state == "COMPLETED":
        return found
    failed = found.failure
    raise StageFailed(
        "the run to complete",
        found=failed.message if failed else f"{run.state.lower()}: {run.message}",
        where=failed.stage if failed else f"run {run.name}",
        mend="Mend it, then `tessera run` continues where it stopped; `tessera doctor` helps.",
    )
