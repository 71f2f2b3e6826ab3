"""Kill a stage at its n-th write, whoever runs it; put this folder on PYTHONPATH.

Every durable write of the project ends in a rename, so the renames of a process are its write
points. ``CRASH_STAGE`` names the stage, ``CRASH_AT`` the rename at which the process kills itself
(negative: just after it, else just before). ``CRASH_FILE`` names a file that holds both ("pack 3"),
read when a stage starts: for stages that inherit the environment of a server. ``CRASH_COUNT`` names
a folder where each stage's file gets one line for each rename instead. Only the process of a stage
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


_TARGET, _AT = _target()
_COUNT = os.environ.get("CRASH_COUNT")
# DVC names a stage of another folder with its file: infra/controls/dvc.yaml:controls.
_STAGE = os.environ.get("DVC_STAGE", "").rpartition(":")[2]

if (_COUNT or _STAGE == _TARGET) and f"tasks.{_STAGE.split('@')[0]}" in sys.orig_argv:
    _rename = os.rename
    _replace = os.replace
    _writes = itertools.count(1)

    def _hit(operation: Callable[..., None], arguments: Any, keywords: Any) -> None:
        done = next(_writes)
        if done == _AT:
            os.kill(os.getpid(), signal.SIGKILL)
        operation(*arguments, **keywords)
        if _COUNT:
            with open(f"{_COUNT}/{_STAGE}", "a") as stream:  # noqa: PTH123 - as above
                stream.write(f"{arguments[0]} -> {arguments[1]}\n")
        if done == -_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = lambda *a, **k: _hit(_rename, a, k)
    os.replace = lambda *a, **k: _hit(_replace, a, k)
