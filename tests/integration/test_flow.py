"""Both doors to one graph, with real servers: a toy project, `tessera up`, and Prefect's own command."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from urllib.request import Request, urlopen

import psutil
import pytest

from tasks.running import processes
from tasks.running.journal import RUN_MARK, Journal
from tasks.serving.orchestrator import FlowRun, Orchestrator
from tasks.workspace import Workspace
from tests.toy_project import Toy, make_toy

pytestmark = pytest.mark.slow

WORK = 'mkdir -p artifacts; echo "working"; cat $2 > $1'
# Ignores SIGTERM, has a child, and a child in a session of its own: what must not be left behind.
STUBBORN = "trap '' TERM; sleep 900 & setsid sleep 901 & echo begun > begun; sleep 902"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    project = make_toy(tmp_path_factory.mktemp("flow") / "toy")
    with project.up():
        yield project


def run_deployment(toy: Toy, **parameters: object) -> tuple[int, dict[str, str], Journal]:
    """Run `prefect deployment run tessera/full --watch`; its exit code and what became of stages."""
    known = run_ids(toy)
    given = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
    done = toy.python("prefect", "deployment", "run", "tessera/full", "--watch", *given)
    return done.returncode, *receipts_of_new_run(toy, known)


def start_deployment(toy: Toy, **parameters: object) -> FlowRun:
    """Start a run through the API and wait until its stage has begun."""
    (toy.root / "begun").unlink(missing_ok=True)
    run = Orchestrator(toy.api).start_run(parameters)
    toy.wait_for((toy.root / "begun").exists)
    return run


def run_ids(toy: Toy) -> set[str]:
    return {path.name for path in (toy.root / ".tessera" / "runs").glob("*")}


def receipts_of_new_run(toy: Toy, known: set[str]) -> tuple[dict[str, str], Journal]:
    new = run_ids(toy) - known
    journal = Journal(Workspace(toy.root), new.pop() if new else "none")
    return {receipt.stage: receipt.status for receipt in journal.receipts()}, journal


def ended(toy: Toy, run: FlowRun) -> FlowRun:
    server = Orchestrator(toy.api)
    toy.wait_for(lambda: server.run(run.id).ended)
    return server.run(run.id)


def artifacts_of(toy: Toy) -> set[str]:
    request = Request(  # noqa: S310
        f"{toy.api}/artifacts/filter", data=b"{}", headers={"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=60) as answer:  # noqa: S310
        return {str(item["key"]) for item in json.loads(answer.read())}


def dvc(toy: Toy, *arguments: str) -> str:
    return toy.python("dvc", *arguments, check=True).stdout


@pytest.fixture(scope="module")
def finished(toy: Toy) -> dict[str, str]:
    """The toy after one complete run; what became of each stage."""
    code, statuses, _ = run_deployment(toy)
    assert code == 0
    return statuses


def test_a_complete_run_runs_every_stage_in_the_order_of_the_graph(
    toy: Toy, finished: dict[str, str]
) -> None:
    stages = ["ingest", "validate", "pack", "pretrain", "cache_targets"]
    stages += [f"distill@{size}" for size in "NSML"]
    expected = dict.fromkeys(stages, "ran") | {"evaluate": "ran", "promote": "promoted"}
    expected |= {"export": "ran", "report": "ran"}
    assert finished == expected
    # Students do not depend on each other, so they end in any order.
    names = [stage.split("@")[0] for stage in finished]
    assert names == [stage.split("@")[0] for stage in expected]
    # Each stage passes its input on, so four students of one line make a report of four.
    assert (toy.root / "artifacts" / "report").read_text() == "1 2 3\n"
    assert "stages" in artifacts_of(toy)


@pytest.mark.usefixtures("finished")
def test_dvc_finds_nothing_to_do_after_a_flow_run(toy: Toy) -> None:
    assert json.loads(dvc(toy, "status", "--json")) == {}
    assert "Data and pipelines are up to date" in dvc(toy, "repro")


@pytest.mark.usefixtures("finished")
def test_what_dvc_has_run_is_respected_what_is_lost_restored_and_a_refusal_is_no_failure(
    toy: Toy,
) -> None:
    toy.set_command("export", WORK + "; echo by hand")
    dvc(toy, "repro", "export")
    (toy.root / "artifacts" / "report").unlink()
    (toy.root / "gate-keeps").touch()
    try:
        code, statuses, journal = run_deployment(toy, start="evaluate")
    finally:
        (toy.root / "gate-keeps").unlink()
    assert code == 0
    assert statuses == {
        "evaluate": "up to date",
        "promote": "kept",
        "export": "up to date",
        "report": "restored",
    }
    gate = next(receipt for receipt in journal.receipts() if receipt.stage == "promote")
    assert gate.message == "kept the incumbent 2: 0.41 against 0.44"


@pytest.mark.usefixtures("finished")
def test_a_failure_carries_the_stages_own_words_and_the_next_run_continues_there(toy: Toy) -> None:
    toy.set_command("evaluate", 'echo "tessera: DataError: tile 7: expected 10 bands"; exit 1')
    code, statuses, journal = run_deployment(toy)
    assert code == 1
    assert statuses["distill@L"] == "up to date"
    assert statuses["evaluate"] == "failed"
    assert "export" not in statuses
    assert journal.receipts()[-1].message == "DataError: tile 7: expected 10 bands"
    toy.set_command("evaluate", WORK + "; echo mended")
    code, statuses, _ = run_deployment(toy)
    assert code == 0
    assert statuses["distill@L"] == "up to date"
    assert statuses["evaluate"] == "ran"


@pytest.mark.usefixtures("finished")
def test_starting_late_is_refused_while_an_earlier_stage_is_stale(toy: Toy) -> None:
    toy.set_command("pretrain", WORK + "; echo changed")
    code, statuses, _ = run_deployment(toy, start="evaluate")
    assert (code, statuses) == (1, {})
    dvc(toy, "repro")


@pytest.mark.usefixtures("finished")
def test_a_cancelled_run_leaves_no_process_and_its_stage_can_be_run_again(toy: Toy) -> None:
    toy.set_command("report", STUBBORN)
    run = start_deployment(toy, start="report")
    family = processes.marked(RUN_MARK, run.id)
    assert sum(p.name() == "sleep" for p in family) == 3
    toy.python("prefect", "flow-run", "cancel", run.id, check=True)
    assert ended(toy, run).state == "CANCELLED"
    assert psutil.wait_procs(family, timeout=60)[1] == []
    assert processes.marked(RUN_MARK, run.id) == []
    toy.set_command("report", WORK)
    dvc(toy, "repro", "report")
    assert (toy.root / "artifacts" / "report").read_text() == "1 2 3\n"


@pytest.mark.usefixtures("finished")
def test_cancelling_students_that_run_side_by_side_leaves_no_process(toy: Toy) -> None:
    toy.set_command("distill", STUBBORN)
    run = start_deployment(toy, start="distill", students_at_once=2)
    toy.wait_for(lambda: len(stage_shells(run)) == 2)
    toy.python("prefect", "flow-run", "cancel", run.id, check=True)
    assert ended(toy, run).state == "CANCELLED"
    toy.wait_for(lambda: processes.marked(RUN_MARK, run.id) == [])
    toy.set_command("distill", WORK)
    dvc(toy, "repro")


def stage_shells(run: FlowRun) -> list[psutil.Process]:
    found = processes.marked(RUN_MARK, run.id)
    return [p for p in found if "stages/distill.sh" in p.cmdline()]


@pytest.mark.usefixtures("finished")
def test_a_run_that_is_killed_outright_is_crashed_and_leaves_no_process(toy: Toy) -> None:
    toy.set_command("report", STUBBORN)
    run = start_deployment(toy, start="report")
    engine = Orchestrator(toy.api).run(run.id).pid
    assert engine is not None
    os.kill(engine, signal.SIGKILL)
    assert ended(toy, run).state == "CRASHED"
    toy.wait_for(lambda: processes.marked(RUN_MARK, run.id) == [])
    toy.set_command("report", WORK)
    dvc(toy, "repro", "report")


@pytest.mark.usefixtures("finished")
def test_a_stage_that_another_door_is_running_is_waited_for(toy: Toy) -> None:
    begun, goes_on = toy.root / "begun", toy.root / "goes-on"
    begun.unlink(missing_ok=True)
    toy.set_command(
        "export", f"echo > {begun}; while [ ! -e {goes_on} ]; do sleep 0.2; done; {WORK}"
    )
    by_hand = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", "export"],
        cwd=toy.root,
        env=toy.environment(),
        stdout=subprocess.DEVNULL,
    )
    toy.wait_for(begun.exists)
    run = Orchestrator(toy.api).start_run({})
    journal = Journal(Workspace(toy.root), run.id)
    toy.wait_for(lambda: journal.log.is_file() and "is busy" in journal.log.read_text())
    goes_on.touch()
    assert by_hand.wait(timeout=60) == 0
    assert ended(toy, run).state == "COMPLETED"
    assert {r.stage: r.status for r in journal.receipts()}["export"] == "up to date"
    toy.set_command("export", WORK)
    dvc(toy, "repro")
