"""Kill a stage at its n-th write, whoever runs it; put this folder on PYTHONPATH.

Every durable write of the project ends in a rename, so the renames of a process are its write
points. ``CRASH_STAGE`` names the stage, ``CRASH_AT`` the rename at which the process kills itself
(negative: just after it, else just before). ``CRASH_COUNT`` names a file that gets one line for
each rename instead. Only the process of the stage itself is meant, not DVC around it.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_STAGE = os.environ.get("CRASH_STAGE")
_MODULE = f"tasks.{(_STAGE or '').split('@')[0]}"

if _STAGE and os.environ.get("DVC_STAGE") == _STAGE and _MODULE in sys.orig_argv:
    _rename = os.rename
    _replace = os.replace
    _writes = itertools.count(1)

    def _hit(operation: Callable[..., None], arguments: Any, keywords: Any) -> None:
        done = next(_writes)
        at = int(os.environ.get("CRASH_AT", "0"))
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)
        operation(*arguments, **keywords)
        if count := os.environ.get("CRASH_COUNT"):
            with open(count, "a") as stream:  # noqa: PTH123 - loaded before anything else
                stream.write(f"{arguments[0]} -> {arguments[1]}\n")
        if done == -at:
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = lambda *a, **k: _hit(_rename, a, k)
    os.replace = lambda *a, **k: _hit(_replace, a, k)
