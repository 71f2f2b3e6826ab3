"""What a stage answers when it is asked to end: a mark, and a code that means "again".

A scheduler that wants its machine back sends SIGTERM, and SIGKILL some time later. A stage ends at
once, for what it has written is whole or absent; a training saves a checkpoint first
(``tasks.training.preemption``). Neither is a failure. DVC turns every exit code into its own, and may
itself be the one that was asked, so the mark in the project's state says it to whoever supervises.

Decision: SIGTERM alone is such a request. Ctrl-C is a person who wants the program to end now; at
most the steps since the last checkpoint are lost to it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tasks.errors import Preempted, TesseraError
from tasks.files import write_json
from tasks.workspace import Workspace

EXIT_CODE = os.EX_TEMPFAIL
"""75: not now, but again. What ``sysexits.h`` calls a temporary failure."""


def mark_of(workspace: Workspace, stage: str) -> Path:
    """Return the file that exists if the last execution of a stage was asked to end."""
    return workspace.state / "preempted" / f"{stage}.json"


@contextmanager
def ends_on_request(workspace: Workspace, stage: str) -> Iterator[None]:
    """Run a stage so that a request to end ends it, with the mark left.

    Raises:
        Preempted: The stage was asked to end; names the stage.
    """
    mark = mark_of(workspace, stage)
    mark.unlink(missing_ok=True)
    try:
        with when_asked(_end):
            yield
    except (Preempted, _Asked) as request:
        named = Preempted(getattr(request, "step", None), where=stage)
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_json(mark, {"stage": stage, "step": named.step})
        raise named from None


@contextmanager
def when_asked(answer: Callable[[], None]) -> Iterator[None]:
    """Call ``answer`` at every request to end (SIGTERM) for as long as the block runs.

    Only a process's main thread can be asked; in another one the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: answer())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_with(error: TesseraError | ValueError) -> NoReturn:
    """End the program with one line that says why: with 75 if it was asked to, else with 1."""
    sys.stderr.write(f"tessera: {type(error).__name__}: {error}\n")
    sys.exit(EXIT_CODE if isinstance(error, Preempted) else 1)


class _Asked(BaseException):
    """A request, raised wherever the stage is; no handler of errors may take it for one."""


def _end() -> None:
    raise _Asked
