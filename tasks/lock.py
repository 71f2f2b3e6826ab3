"""One writer for each output: an operating-system lock that a dead holder cannot keep.

DVC takes the lock of a killed run for stale and starts a second stage beside an orphan; this lock is
freed by the kernel with the process that holds it, never before.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import StageBusy
from tasks.files import write_json
from tasks.progress import say
from tasks.provenance import door, now

_WAIT_S = 24 * 3600.0


@contextmanager
def only_writer(final: Path) -> Iterator[bool]:
    """Hold the lock of an output while it is made.

    Args:
        final: Folder of the output; the lock lies beside it, outside what DVC removes.

    Yields:
        Whether the lock had to be waited for.

    Raises:
        StageBusy: It was not free within a day.
    """
    lock = FileLock(final.with_name(f".{final.name}.lock"))
    holder = final.with_name(f".{final.name}.holder.json")
    waited = False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waited = True
        say(f"{final.name}: waiting for {_describe_holder(holder)}")
        try:
            lock.acquire(timeout=_WAIT_S)
        except Timeout as error:
            raise StageBusy(
                "a free lock",
                found=_describe_holder(holder),
                where=str(lock.lock_file),
                mend="Wait for that process, or end it; its lock goes with it.",
            ) from error
    try:
        write_json(holder, {"pid": os.getpid(), "since": now(), "door": door()})
        yield waited
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe_holder(holder: Path) -> str:
    try:
        facts = json.loads(holder.read_text())
        return f"process {facts['pid']} ({facts['door']}, since {facts['since']})"
    except (OSError, ValueError):
        return "a process that has just taken the lock"
