"""Die with the parent, so that no orphan writes beside its successor.

``dvc repro`` and a Prefect worker, killed or cancelled, leave the process that they started alive; a
second run then starts beside it. Two mechanisms close the hole on Linux: the kernel's parent-death
signal for the direct parent, and a thread that watches the next ancestors by their file descriptors
when a shell stands between (DVC starts stages through one).

Death is SIGKILL at once, except while a training runs (``asked_first``): it is asked with SIGTERM, and
has some seconds to save what it has learned. Its lock stays held until it is gone.

``python -m tasks.lifeline COMMAND...`` ties any command to whoever started it.
"""

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
PARENT = "TESSERA_PARENT"
"""Environment variable with the process id of the parent that is meant."""

GRACE = "TESSERA_GRACE_S"
"""Environment variable with the seconds between asking a process to end and ending it."""

_DEFAULT_GRACE_S = 30.0  # what Kubernetes and torchrun give as well

_SHELLS = {"sh", "dash", "bash", "zsh", "ksh", "fish"}


_watched, _asks_first = threading.Event(), threading.Event()


def grace_s() -> float:
    """Return the seconds that a process has between SIGTERM and SIGKILL.

    Raises:
        ValueError: ``TESSERA_GRACE_S`` is not a number of seconds.
    """
    given = os.environ.get(GRACE, "")
    try:
        return float(given) if given else _DEFAULT_GRACE_S
    except ValueError:
        raise ValueError(f"{GRACE}: expected seconds, e.g. 120; found {given!r}") from None


@contextmanager
def asked_first() -> Iterator[None]:
    """Let the runner's end ask this process to end (SIGTERM), and kill it ``grace_s`` later.

    For work that can be saved. Call it in the main thread, whose parent-death signal counts.
    """
    _asks_first.set()
    if _watched.is_set():
        _die_with_parent_by(signal.SIGTERM)
    try:
        yield
    finally:
        _asks_first.clear()
        if _watched.is_set():
            _die_with_parent_by(signal.SIGKILL)


def tie_to_parent() -> None:
    """Ask the kernel to kill this process when its parent ends; exit if it has ended already.

    ``TESSERA_PARENT`` names the parent that is meant: it may have ended before this was called.
    """
    parent = int(os.environ.pop(PARENT, os.getppid()))
    _die_with_parent_by(signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def die_with_runner() -> None:
    """Tie this process to the DVC or launcher process that runs it; by hand it stays free.

    DVC sets ``DVC_STAGE`` in the stages that it runs; a launcher of ours sets ``TESSERA_TIED``.
    Started by hand from a terminal neither is set, and ``nohup`` works as expected.
    """
    if not {"DVC_STAGE", "TESSERA_TIED"} & os.environ.keys():
        return
    tie_to_parent()
    ancestors = _ancestors_through_shells()
    if "DVC_STAGE" in os.environ and not _runs_dvc(ancestors[-1:]):
        # The imports before this call took seconds, and DVC was killed meanwhile.
        os.kill(os.getpid(), signal.SIGKILL)
    if ancestors and sys.platform == "linux":
        threading.Thread(target=_watch, args=(ancestors,), daemon=True, name="lifeline").start()
        _watched.set()


def _die_with_parent_by(number: signal.Signals) -> None:
    """Name the signal that the kernel sends to this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def _ancestors_through_shells() -> list[int]:
    pids: list[int] = []
    for ancestor in psutil.Process().parents():
        pids.append(ancestor.pid)
        if ancestor.name() not in _SHELLS:
            break
    return pids


def _runs_dvc(pids: list[int]) -> bool:
    """Return whether the nearest ancestor that is no shell is DVC."""
    try:
        words = [word for pid in pids for word in psutil.Process(pid).cmdline()]
    except psutil.Error:
        return False
    return any(Path(word).name == "dvc" for word in words)


def _watch(pids: list[int]) -> None:
    poll = select.poll()
    for pid in pids:
        try:
            poll.register(os.pidfd_open(pid), select.POLLIN)
        except ProcessLookupError:
            os.kill(os.getpid(), signal.SIGKILL)
    poll.poll()
    if _asks_first.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s())
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run a command that dies when the caller of this module dies."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tasks.lifeline COMMAND [ARGUMENT ...]")
    tie_to_parent()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the caller's own command, no shell


if __name__ == "__main__":
    main()
