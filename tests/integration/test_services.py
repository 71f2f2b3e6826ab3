"""Servers that come up together, end together, and leave nothing behind."""

import json
import os
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import Request, urlopen

import psutil
import pytest

from tasks.serving.orchestrator import Orchestrator
from tasks.serving.servers import mlflow_url, start_mlflow
from tasks.serving.services import ended_by_signals, own_runs
from tasks.workspace import Workspace
from tests.toy_project import Toy, make_toy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A project in which everything is up to date."""
    project = make_toy(tmp_path_factory.mktemp("services") / "toy")
    project.python("dvc", "repro", check=True)
    return project


def test_a_port_that_another_program_uses_is_named_with_that_program(toy: Toy) -> None:
    with HTTPServer(("127.0.0.1", toy.prefect_port), BaseHTTPRequestHandler) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        done = toy.python("tasks.cli", "up")
        other.shutdown()
    assert done.returncode == 1
    assert f"port {toy.prefect_port} is used by process {os.getpid()}" in done.stderr
    assert "PREFECT_API_URL=" in done.stderr
    assert toy.servers() == []


def test_run_brings_up_what_it_needs_ends_it_and_is_idle_the_second_time(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    first = toy.python("tasks.cli", "run", "--json")
    assert first.returncode == 0, first.stdout + first.stderr
    statuses = [stage["status"] for stage in json.loads(first.stdout)["stages"]]
    assert statuses.count("ran") == 12
    assert statuses.count("promoted") == 1
    assert "ingest | working" in first.stderr
    assert toy.servers() == []
    assert (toy.root / ".tessera" / "prefect" / "prefect.db").is_file()
    assert (toy.root / ".tessera" / "mlflow" / "mlflow.db").is_file()

    second = toy.python("tasks.cli", "run")
    assert second.returncode == 0
    assert "nothing to run" in second.stdout
    assert "tessera-student 1 is at staging" in second.stdout
    assert "Starting the Prefect server" not in second.stdout

    toy.set_command("report", 'echo "tessera: DataError: no page"; exit 1')
    third = toy.python("tasks.cli", "run", "--start", "report")
    assert third.returncode == 1
    assert "report: expected the run to complete; found DataError: no page" in third.stderr
    assert "Traceback" not in third.stderr


def test_up_twice_is_up_once_and_ctrl_c_cancels_what_runs_and_leaves_nothing(toy: Toy) -> None:
    toy.set_command("report", "trap '' TERM; echo > begun; sleep 900")
    with toy.up() as owner:
        again = toy.python("tasks.cli", "up")
        assert again.returncode == 0
        assert f"process {owner.pid}" in again.stdout
        run = Orchestrator(toy.api).start_run({"start": "report"})
        toy.wait_for((toy.root / "begun").exists)
        assert toy.servers()
        assert [r.id for r in own_runs(Orchestrator(toy.api), owner.pid, alone=False)] == [run.id]
        owner.send_signal(signal.SIGINT)
        owner.wait(timeout=180)
        assert owner.returncode == 0
    assert toy.servers() == []
    assert not (toy.root / ".tessera" / "services.json").exists()
    assert state_in_database(toy, run.id) == "CANCELLED"
    toy.set_command("report", "cat $2 > $1")


def test_doctor_buries_dead_runs_and_a_killed_owner_takes_its_servers_along(toy: Toy) -> None:
    with toy.up() as owner:
        run = dead_run(toy)
        found = finding(toy, "flow runs")
        assert found["state"] == "warn"
        assert run in found["found"]
        assert finding(toy, "flow runs", "--fix")["state"] == "mended"
        assert Orchestrator(toy.api).runs_in_flight() == []
        assert finding(toy, "flow runs")["state"] == "ok"

        stranger = request(toy, "POST", "/flow_runs/", running_flow(toy))["id"]
        server, worker = Orchestrator(toy.api), owner.pid
        assert [run.id for run in server.runs_in_flight()] == [stranger]
        assert own_runs(server, worker, alone=False) == []
        assert [run.id for run in own_runs(server, worker, alone=True)] == [stranger]

        servers = psutil.Process(owner.pid).children()
        owner.kill()
        assert psutil.wait_procs(servers, timeout=60)[1] == []
    with toy.up():
        assert Orchestrator(toy.api).home() == toy.root / ".tessera" / "prefect"


def test_a_tracking_server_elsewhere_is_linked_to_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org/")
    workspace = Workspace(tmp_path)
    with ExitStack() as stack:
        assert start_mlflow(workspace, stack) == "https://mlflow.example.org"
    assert mlflow_url(workspace) == "https://mlflow.example.org"
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored_as_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def state_in_database(toy: Toy, run_id: str) -> str:
    """Ask Prefect's database itself, since the server is down."""
    with closing(sqlite3.connect(toy.root / ".tessera" / "prefect" / "prefect.db")) as database:
        query = "select state_type from flow_run where id = ?"
        return str(database.execute(query, [run_id]).fetchone()[0])


def finding(toy: Toy, name: str, *options: str) -> dict[str, str]:
    done = toy.python("tasks.cli", "doctor", "--json", *options)
    findings = json.loads(done.stdout)["findings"]
    return next(dict(item) for item in findings if item["name"] == name)


def dead_run(toy: Toy) -> str:
    """Enter a run that counts as running in a process that does not exist; return its name."""
    made = request(toy, "POST", "/flow_runs/", running_flow(toy))
    free = next(pid for pid in range(4_000_000, 1, -1) if not psutil.pid_exists(pid))
    request(toy, "PATCH", f"/flow_runs/{made['id']}", {"infrastructure_pid": str(free)})
    return str(made["name"])


def running_flow(toy: Toy) -> dict[str, object]:
    flow = request(toy, "POST", "/flows/", {"name": "tessera"})
    return {"flow_id": flow["id"], "state": {"type": "RUNNING"}}


def request(toy: Toy, method: str, path: str, body: Mapping[str, object]) -> dict[str, str]:
    asked = Request(  # noqa: S310
        toy.api + path,
        method=method,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urlopen(asked, timeout=60) as answer:  # noqa: S310
        content: dict[str, str] = json.loads(answer.read() or b"{}")
        return content
