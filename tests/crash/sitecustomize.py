"""Kill a stage at its n-th write, whoever runs it; put this folder on PYTHONPATH.

Every durable write of the project ends in a rename, so the renames of a process are its write
points. ``CRASH_STAGE`` names the stage, ``CRASH_AT`` the rename at which the process kills itself
(negative: just after it, else just before). ``CRASH_COUNT`` names a file that gets one line for
each rename instead. ``CRASH_FILE`` names a file that holds stage and rename ("pack 3"), read when a
stage starts: for stages that inherit the environment of a server. Only the process of the stage
itself is meant, not DVC around it.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def _target() -> tuple[str | None, int]:
    if path := os.environ.get("CRASH_FILE"):
        try:
            with open(path) as stream:  # noqa: PTH123 - loaded before anything else
                stage, at = stream.read().split()
        except FileNotFoundError:
            return None, 0
        return stage, int(at)
    return os.environ.get("CRASH_STAGE"), int(os.environ.get("CRASH_AT", "0"))


_STAGE, _AT = _target()
_MODULE = f"tasks.{(_STAGE or '').split('@')[0]}"

if _STAGE and os.environ.get("DVC_STAGE") == _STAGE and _MODULE in sys.orig_argv:
    _rename = os.rename
    _replace = os.replace
    _writes = itertools.count(1)

    def _hit(operation: Callable[..., None], arguments: Any, keywords: Any) -> None:
        done = next(_writes)
        if done == _AT:
            os.kill(os.getpid(), signal.SIGKILL)
        operation(*arguments, **keywords)
        if count := os.environ.get("CRASH_COUNT"):
            with open(count, "a") as stream:  # noqa: PTH123 - loaded before anything else
                stream.write(f"{arguments[0]} -> {arguments[1]}\n")
        if done == -_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = lambda *a, **k: _hit(_rename, a, k)
    os.replace = lambda *a, **k: _hit(_replace, a, k)
