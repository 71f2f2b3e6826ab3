"""Start a program in a group of its own, and end it with everything that it started.

Both the stage runner and the services need the same two promises: the program dies when the process
that started it dies (``tasks.lifeline``, also after ``kill -9``), and ending it leaves nothing
behind. A group of its own keeps a Ctrl-C in the terminal from reaching it before we do.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

GRACE_S = 10.0
"""Seconds between asking a process to end (SIGTERM) and ending it (SIGKILL)."""


def start(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], output: IO[str] | int
) -> subprocess.Popen[str]:
    """Start ``command`` in its own session, tied to the calling thread.

    The kernel's parent-death signal belongs to the thread that forks, so the calling thread must
    live for as long as the program: whoever starts it must also wait for it.

    Args:
        command: Program and arguments; no shell.
        folder: Working directory.
        environment: The whole environment of the program.
        output: Where standard output and standard error go, or ``subprocess.PIPE``.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.lifeline", *command],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        bufsize=1,
        start_new_session=True,
    )


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def end(pid: int, *, grace_s: float = GRACE_S) -> None:
    """End a group's leader, its group and all descendants; returns when none of them is left.

    Args:
        pid: Process id of the leader, which is also the id of its group.
        grace_s: Seconds before SIGTERM is followed by SIGKILL.
    """
    members = _members(pid)
    _signal(members, signal.SIGTERM)
    _, alive = psutil.wait_procs(members, timeout=grace_s)
    # A member may have started another one while it was ending.
    alive = list({*alive, *_members(pid)})
    _signal(alive, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=GRACE_S)


def is_alive(pid: int, started: float) -> bool:
    """Tell whether the process that had ``pid`` at ``started`` (seconds since 1970) still runs."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == started and _runs(process))
    except psutil.NoSuchProcess:
        return False


def started_at(pid: int) -> float:
    """Return when a running process of ours was started, in seconds since 1970."""
    return float(psutil.Process(pid).create_time())


def _members(leader: int) -> list[psutil.Process]:
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader:
                found |= {process, *process.children(recursive=True)}
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return [process for process in found if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
