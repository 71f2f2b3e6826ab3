"""Run one stage through DVC, supervised: live output, a receipt, nothing left behind.

DVC decides whether a stage is up to date, restores it from its run cache, or runs it; this module
starts ``dvc repro --single-item`` as a child in a process group of its own, passes every line on as
it comes, and says which of the three it was. The promotion gate is run the same way, though it is
no DVC stage: what it changes is the registry, not a file.
"""

import json
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from tasks.errors import LineageError, Preempted, StageBusy, StageFailed
from tasks.manifest import digest_of
from tasks.preempted import mark_of
from tasks.running import processes
from tasks.running.graph import BUSY
from tasks.running.journal import RUN_MARK, Journal, Receipt, Status

PROMOTE = "promote"
"""Name of the promotion step in receipts and summaries."""

_KEPT = 3
_TAIL_LINES = 40
_OWN_WORD = "tessera: "
_ENDED = "failed to run: "
_DVC_HINTS = (
    "To track the changes with git",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config core.autostage",
    "Use `dvc push`",
    "Updating lock file",
    "Generating lock file",
)
_DVC_NOISE = ("ERROR: failed to reproduce", "Traceback (most recent call last)")


def reproduce(
    journal: Journal, stage: str, *, say: Callable[[str], None], force: bool = False
) -> Receipt:
    """Bring one stage up to date.

    Args:
        journal: Where the receipt and the output go.
        stage: Address in ``dvc.yaml``.
        say: Called with each line of output as it comes.
        force: Run it even if nothing has changed.

    Returns:
        The receipt, already in the journal.

    Raises:
        StageBusy: Another process is writing a file that the stage needs; time heals it.
        Preempted: The stage was asked to end, by somebody who did not end the run; as well.
        StageFailed: The stage ended with an error; carries the stage's own message. Or the run was
            ended.
    """
    options = ["--single-item", *(["--force"] if force else [])]
    command = processes.python("dvc", "--wait-for-lock", "repro", *options, stage)
    mark = mark_of(journal.workspace, stage)
    mark.unlink(missing_ok=True)
    started = time.monotonic()
    code, lines = _supervise(journal, stage, command, say)
    seconds = round(time.monotonic() - started, 2)
    if code == 0:
        status = _status(lines)
        return _filed(journal, Receipt(stage, status, seconds, _digest(journal, stage)))
    if any(BUSY in line for line in lines):
        raise StageBusy(
            "its inputs at rest",
            found=next(line for line in lines if BUSY in line),
            where=stage,
            mend="It is tried again; another door is running a stage that it needs.",
        )
    if mark.exists() or _was_terminated(code, lines):
        journal.check_open(stage)  # it was the run that was ended, stages and all
        step = json.loads(mark.read_text())["step"] if mark.exists() else None
        raise Preempted(step, where=stage)
    raise _failure(journal, stage, code, lines, seconds)


def promote(journal: Journal, *, say: Callable[[str], None]) -> Receipt:
    """Ask the promotion gate; a refusal is an answer, not a failure.

    Raises:
        StageFailed: The gate itself could not be asked.
    """
    started = time.monotonic()
    code, lines = _supervise(journal, PROMOTE, processes.python("tasks.promote"), say)
    seconds = round(time.monotonic() - started, 2)
    if code not in (0, _KEPT):
        raise _failure(journal, PROMOTE, code, lines, seconds)
    status: Status = "promoted" if code == 0 else "kept"
    message = (lines[-1] if lines else "").removeprefix(_OWN_WORD)
    return _filed(journal, Receipt(PROMOTE, status, seconds, message=message))


def _supervise(
    journal: Journal, stage: str, command: Sequence[str], say: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Run a command to its end and return its exit code and last lines."""
    environment = journal.workspace.environment() | {RUN_MARK: journal.run}
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    child = processes.start(
        command,
        folder=journal.workspace.root,
        environment=environment,
        output=subprocess.PIPE,
    )
    with child:
        try:
            journal.check_open(stage)
            for raw in child.stdout or ():
                line = raw.rstrip()
                if line and not line.startswith(_DVC_HINTS):
                    tail.append(line)
                    journal.note(stage, line)
                    say(line)
            return child.wait(), list(tail)
        finally:
            # Reached by a cancellation too, which arrives as an exception in this very loop.
            processes.end(child.pid)


def _was_terminated(code: int, lines: list[str]) -> bool:
    """Return whether SIGTERM ended DVC, or a stage that was too young to leave a mark."""
    ends = tuple(f", exited with {code}" for code in (-signal.SIGTERM, 128 + signal.SIGTERM))
    return code == -signal.SIGTERM or any(line.endswith(ends) for line in lines)


def _status(lines: list[str]) -> Status:
    if any("is cached - skipping run" in line for line in lines):
        return "restored"
    return "up to date" if any("didn't change, skipping" in line for line in lines) else "ran"


def _digest(journal: Journal, stage: str) -> str | None:
    with suppress(LineageError):
        return digest_of(journal.workspace.output(stage))
    return None


def _filed(journal: Journal, receipt: Receipt) -> Receipt:
    journal.add(receipt)
    return receipt


def _failure(
    journal: Journal, stage: str, code: int, lines: list[str], seconds: float
) -> StageFailed:
    found = _last_word(lines).rstrip(".") or f"exit code {code}"
    journal.add(Receipt(stage, "failed", seconds, message=found))
    return StageFailed(
        "the stage to succeed",
        found=found,
        where=stage,
        mend="Mend it and run again: what is done is kept, the run continues here.",
    )


def _last_word(lines: list[str]) -> str:
    """Return the stage's own message, or how it ended, or the last line that is not DVC's."""
    own = [line for line in lines if line.startswith(_OWN_WORD)]
    if own:
        return own[-1].removeprefix(_OWN_WORD)
    if ended := [line for line in lines if _ENDED in line]:
        return ended[-1].partition(_ENDED)[2]  # killed, it had no time for a word of its own
    others = [line for line in lines if not line.startswith(_DVC_NOISE)]
    return others[-1] if others else ""
