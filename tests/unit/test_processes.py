import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.errors import StageFailed
from tasks.running import processes
from tasks.running.journal import RUN_MARK, Journal, Receipt
from tasks.workspace import Workspace

REPOSITORY = Path(__file__).parents[2]
STUBBORN = "trap '' TERM; sleep 600 & setsid sleep 601 & echo ready; sleep 602"


def begin(folder: Path, **variables: str) -> subprocess.Popen[str]:
    child = processes.start(
        ["sh", "-c", STUBBORN],
        folder=folder,
        environment=os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables,
        output=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def finish(child: subprocess.Popen[str]) -> None:
    with child:
        child.wait(timeout=30)


def family_of(child: subprocess.Popen[str]) -> list[psutil.Process]:
    """The three sleepers; the last one starts after the shell has said that it is ready."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        family = psutil.Process(child.pid).children(recursive=True)
        if [p.name() for p in family] == ["sleep"] * 3:
            return list(family)
        time.sleep(0.05)
    raise AssertionError("the shell did not start its children")


def test_ending_a_group_ends_children_that_ignore_the_polite_signal(tmp_path: Path) -> None:
    child = begin(tmp_path)
    family = family_of(child)
    processes.end(child.pid, grace_s=0.5)
    finish(child)
    assert psutil.wait_procs(family, timeout=5)[1] == []


def test_a_mark_finds_what_outlived_its_leader_in_a_session_of_its_own(tmp_path: Path) -> None:
    child = begin(tmp_path, **{RUN_MARK: str(tmp_path)})
    family = family_of(child)
    child.kill()
    child.wait(timeout=30)
    assert {p.pid for p in processes.marked(RUN_MARK, str(tmp_path))} == {p.pid for p in family}
    processes.end_marked(RUN_MARK, str(tmp_path), grace_s=0.5)
    finish(child)
    assert processes.marked(RUN_MARK, str(tmp_path)) == []


def test_a_program_dies_with_whoever_started_it() -> None:
    code = (
        "import os, subprocess, sys, time\nfrom tasks.running import processes\n"
        "c = processes.start(['sleep', '600'], folder='.', environment=os.environ,"
        " output=subprocess.DEVNULL)\nprint(c.pid, flush=True)\ntime.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    program = psutil.Process(int(starter.stdout.readline()))
    deadline = time.monotonic() + 30
    while program.name() != "sleep" and time.monotonic() < deadline:
        time.sleep(0.05)
    starter.kill()
    finish(starter)
    assert psutil.wait_procs([program], timeout=30)[1] == []


def test_an_ended_run_starts_nothing_until_it_is_opened_again(tmp_path: Path) -> None:
    journal = Journal(Workspace(tmp_path), "run-1")
    journal.check_open("pack")
    journal.end()
    with pytest.raises(StageFailed, match="ended"):
        journal.check_open("pack")
    journal.open()
    journal.check_open("pack")


def test_the_last_receipt_of_a_stage_counts(tmp_path: Path) -> None:
    journal = Journal(Workspace(tmp_path), "run-1")
    journal.add(Receipt("pack", "failed", 1.0, message="busy"))
    journal.add(Receipt("pretrain", "ran", 2.0))
    journal.add(Receipt("pack", "ran", 3.0))
    assert {r.stage: r.status for r in journal.receipts()} == {"pack": "ran", "pretrain": "ran"}
