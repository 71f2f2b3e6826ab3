"""The real pipeline through the real deployment, as the README says, with browser and kills."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tasks.running.journal import Journal
from tasks.tracking import open_client
from tasks.workspace import Workspace
from tests.project import CRASH, forget, make_project, output_digests, repro
from tests.toy_project import Toy, free_ports, prefect_settings

pytestmark = pytest.mark.slow
STAGES = (
    *("ingest", "validate", "pack", "pretrain", "cache_targets"),
    *("distill@N", "distill@S", "distill@M", "distill@L", "evaluate", "export", "report"),
)

KILLS = (("validate", 11), ("pack", 20), ("pretrain", 6), ("distill@S", 6), ("export", 10))
"""Stages and the write before which each is killed: in the middle of its output, its scratch files,
its checkpoints (teacher and student), its tiles."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    """A real, small project whose servers are up and whose flow has run once."""
    root = make_project(tmp_path_factory.mktemp("deployment") / "project").root
    path = f"{root}{os.pathsep}{CRASH}"
    crash = {"PYTHONPATH": path, "CRASH_FILE": str(root.with_name("crash.txt"))}
    prefect_port, mlflow_port = free_ports(2)
    site = Toy(root, prefect_port, mlflow_port, crash)
    (root / "pyproject.toml").write_text(prefect_settings(site.prefect_port))
    with site.up():
        done = flow_run(site)
        assert done.returncode == 0, done.stdout + done.stderr
        yield site


def ask(site: Toy, path: str, **body: Any) -> list[dict[str, Any]]:
    request = Request(  # noqa: S310 - our own server
        f"{site.api}/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urlopen(request) as answer:  # noqa: S310
        found: list[dict[str, Any]] = json.load(answer)
    return found


def test_stages_speak_in_the_prefect_log_and_results_are_artifacts(site: Toy) -> None:
    pages = [row["message"] for o in range(0, 1000, 200) for row in _logs(site, o)]
    said = "\n".join(pages)
    for stage in STAGES:
        assert re.search(rf"{stage}: done in", said), stage
    artifacts = ask(site, "artifacts/filter", limit=200)
    texts = {row["key"]: str(row["data"]) for row in artifacts}
    assert "Validation passed" in texts["validation"]
    scores = json.loads((site.root / "artifacts" / "evaluate" / "scores.json").read_text())
    assert str(scores["composite"]["N"]["16"]) in texts["scores"]
    linked = [key for key, text in texts.items() if "/#/runs/" in text]
    assert len(linked) == len(STAGES)


def _logs(site: Toy, offset: int) -> list[dict[str, Any]]:
    return ask(site, "logs/filter", limit=200, offset=offset)


def test_the_best_student_is_staged_and_its_lineage_is_connected(site: Toy) -> None:
    workspace = Workspace(site.root)
    client = open_client(workspace)
    scores = json.loads((workspace.output("evaluate") / "scores.json").read_text())
    version = client.get_model_version_by_alias("tessera-student", "staging")
    student = client.get_run(str(version.run_id))
    assert student.data.tags["tessera.stage"] == f"distill@{scores['best']}"
    chain = [student]
    for parent in ("cache_targets", "pretrain", "pack", "validate", "ingest"):
        run_id = chain[-1].data.tags[f"tessera.parent.{parent}.run"]
        assert f"[{parent}](#/runs/{run_id})" in chain[-1].data.tags["mlflow.note.content"]
        chain.append(client.get_run(run_id))
    assert {run.data.tags["mlflow.parentRunId"] for run in chain[:-1]} == {chain[-1].info.run_id}


def test_both_doors_agree_on_what_is_up_to_date(site: Toy) -> None:
    assert "Data and pipelines are up to date" in repro(site.root)


@pytest.mark.timeout(1800)
def test_stages_killed_under_prefect_fail_the_flow_and_the_next_run_continues(site: Toy) -> None:
    expected = output_digests(site.root)
    forget(site.root, [stage for stage, _ in KILLS])
    # One kill a run: each continues behind the last one's and comes as far as the next.
    for stage, write in KILLS:
        crash_file(site).write_text(f"{stage} {write}")
        ran = flow_run(site)
        assert ran.returncode == 1, f"{stage} was not killed\n{ran.stdout}"
        assert failed_stage(site) == stage
    crash_file(site).unlink()
    done = flow_run(site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert output_digests(site.root) == expected
    assert not list((site.root / "artifacts").rglob(".*.building"))


def crash_file(site: Toy) -> Path:
    return Path(site.variables["CRASH_FILE"])


def flow_run(site: Toy) -> subprocess.CompletedProcess[str]:
    return site.python("prefect", "deployment", "run", "tessera/full", "--watch")


def failed_stage(site: Toy) -> str:
    """The stage at which the last flow run ended."""
    runs = (site.root / ".tessera" / "runs").iterdir()
    last = max(runs, key=lambda folder: folder.stat().st_mtime)
    receipts = Journal(Workspace(site.root), last.name).receipts()
    (failed,) = [receipt.stage for receipt in receipts if receipt.status == "failed"]
    return failed


def test_pages_open_in_a_browser(site: Toy, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    report = (site.root / "artifacts" / "report" / "index.html").as_uri()
    prefect = f"http://127.0.0.1:{site.prefect_port}/runs"
    for url, word in ((report, "Lineage"), (prefect, "tessera")):
        assert word in _page(browser, url, tmp_path), url
    printed = site.python("tasks.cli", "up", check=True).stdout
    runs = re.findall("MLflow +(http.+)", printed)[0]
    listed = _page(browser, runs, tmp_path)
    assert all(f">{stage}<" in listed for stage in STAGES), f"{runs}\n{listed}"


def _page(browser: str, url: str, scratch: Path) -> str:
    """Return the document that a browser shows after the scripts of the page have run."""
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    rest = ["--disable-component-update", "--disable-sync", "--virtual-time-budget=30000"]
    tall = "--window-size=1600,4000"  # lists hold only the rows that fit the window
    command = [browser, "--headless", "--no-sandbox", *quiet, *rest, tall, "--dump-dom"]
    done = subprocess.run(
        [*command, f"--user-data-dir={scratch / 'profile'}", url],
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    return done.stdout
