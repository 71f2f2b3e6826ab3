"""Start a program in a group of its own, and end it with everything that it started.

Both the stage runner and the services need the same two promises: the program dies when the process
that started it dies (``tasks.lifeline``, also after ``kill -9``), and ending it leaves nothing
behind. A group of its own keeps a Ctrl-C in the terminal from reaching it before we do.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from tasks.lifeline import grace_s as default_grace_s


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


def end(pid: int, *, grace_s: float | None = None) -> None:
    """End a group's leader, its group and all descendants; returns when none of them is left.

    Args:
        pid: Process id of the leader, which is also the id of its group.
        grace_s: Seconds before SIGTERM is followed by SIGKILL; ``TESSERA_GRACE_S`` by default.
    """
    _end(lambda: _members(pid), grace_s)


def end_marked(name: str, value: str, *, grace_s: float | None = None) -> None:
    """End every process that carries a mark in its environment; returns when none is left.

    Unlike a group, a mark is inherited by whatever a process starts, also in a session of its own
    and also after the process itself has died.
    """
    _end(lambda: marked(name, value), grace_s)


def marked(name: str, value: str) -> list[psutil.Process]:
    """Return the running processes of this user whose environment has ``name=value``."""
    return [process for process in psutil.process_iter() if _carries(process, name, value)]


def _carries(process: psutil.Process, name: str, value: str) -> bool:
    try:
        return bool(process.environ().get(name) == value) and _runs(process)
    except psutil.Error:
        return False


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


def _end(find: Callable[[], list[psutil.Process]], given_s: float | None) -> None:
    grace_s = default_grace_s() if given_s is None else given_s
    members = find()
    _signal(members, signal.SIGTERM)
    _, alive = psutil.wait_procs(members, timeout=grace_s)
    # A member may have started another one while it was ending.
    last = list({*alive, *find()})
    _signal(last, signal.SIGKILL)
    psutil.wait_procs(last, timeout=grace_s)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
