"""Start the processes of a training, on this machine or wherever the site's launcher puts them.

The stage is one process; the processes that train are started by ``torchrun``, and each reads its
work from ``job.json``. ``TESSERA_LAUNCHER`` replaces the local ``torchrun`` by a command of the site,
such as ``srun torchrun ...``. For machines that nobody can start a process on from here (pods), the
job is published in the project's state, and ``tasks.training.follow`` joins it there.

A published job beats for as long as its stage lives, so one that a killed stage left behind is told
from a live one without comparing the clocks of two machines.
"""

import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import ParamsError
from tasks.files import write_json
from tasks.lifeline import PARENT, grace_s
from tasks.preempted import when_asked
from tasks.workspace import Workspace

JOB = "TESSERA_JOB"
"""Environment variable that names ``job.json`` to a process that trains."""

LAUNCHER = "TESSERA_LAUNCHER"
"""Environment variable with a site's command in place of the local ``torchrun``; no shell reads it."""

STOPPED = "stopped.json"
"""File in the work folder that says at which step a training ended on request."""

WEIGHTS = "weights.safetensors"
"""File in the work folder that a training leaves at its end."""

FAILED = "failed"
"""File in the work folder that says that a process ended with an error of its own."""

POLL_S = 2.0
"""Seconds between two beats of a published job."""

_LATE_S = 90.0  # network file systems show another machine's new file up to a minute late


def launcher_of(processes: int) -> list[str]:
    """Return the command that starts the processes, without what they run.

    Raises:
        ParamsError: ``TESSERA_LAUNCHER`` is not a command.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    given = os.environ.get(LAUNCHER)
    if given is None:
        return [*torchrun, "--standalone", f"--nproc-per-node={processes}"]
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise _no_command(given, str(error)) from error
    if not words:
        raise _no_command(given, "nothing")
    return words


def start(module: str, job: Path, attempt: str, processes: int) -> subprocess.Popen[bytes]:
    """Start the processes of a training; they die with this process.

    Args:
        module: What each of them runs.
        job: The ``job.json`` that they read, visible to all.
        attempt: Id under which they meet; the same on every machine of one attempt.
        processes: How many, where no launcher of the site says it.

    Raises:
        ParamsError: ``TESSERA_LAUNCHER`` is not a command that can be run.
    """
    command = [*launcher_of(processes), "--module", module]
    # The processes are tied to the launcher, not to DVC.
    inherited = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment = inherited | {
        JOB: str(job),
        "TESSERA_TIED": "1",
        PARENT: str(os.getpid()),
        # torchrun's own options: who meets whom, and how long its processes may save.
        "PET_RDZV_ID": attempt,
        "PET_SHUTDOWN_TIMEOUT": str(round(grace_s())),
    }
    tied = [sys.executable, "-m", "tasks.lifeline", *command]
    return subprocess.Popen(tied, env=environment)


def attend(
    process: subprocess.Popen[bytes], work: Path, meanwhile: Callable[[], None]
) -> tuple[int, bool]:
    """Wait for the processes of a training, and hand a request to end on to them.

    Args:
        process: The launcher.
        work: Work folder of the training.
        meanwhile: Called every ``POLL_S``.

    Returns:
        The launcher's exit code, and whether this process was asked to end.
    """
    request = request_of(work)
    with when_asked(request.touch):
        while True:
            try:
                return process.wait(POLL_S), request.exists()
            except subprocess.TimeoutExpired:
                meanwhile()


def forget_ends(work: Path) -> None:
    """Forget how an earlier attempt ended, before the next is started."""
    for name in (STOPPED, FAILED):
        (work / name).unlink(missing_ok=True)


def was_preempted(work: Path, code: int, *, asked: bool) -> bool:
    """Return whether a training ended because it was asked to, and is to be run again.

    One that was asked before its first step or after its last has saved nothing and leaves with an
    error code. So does one whose process failed, and ``torchrun`` and ``srun`` then ask the others
    to end: the request is their answer, and no reason to fail again and again. What one that ended
    well has left may be seen late, and is waited for.

    Args:
        work: Work folder of the training.
        code: Exit code of its launcher.
        asked: Whether anybody was asked to end.
    """
    limit = time.monotonic() + _LATE_S
    while code == 0 and not any((work / name).exists() for name in (STOPPED, WEIGHTS)):
        if time.monotonic() > limit:
            break
        time.sleep(POLL_S)
    if (work / STOPPED).exists():
        return True
    return code != 0 and asked and not (work / FAILED).exists()


def request_of(work: Path) -> Path:
    """Return the file whose presence asks the training in ``work`` to end."""
    return work / "stop"


def published_of(workspace: Workspace, stage: str) -> Path:
    """Return the file by which a stage says that it trains, and on what."""
    return workspace.state / "jobs" / f"{stage}.json"


@contextmanager
def published(workspace: Workspace, stage: str, job: Path) -> Iterator[tuple[str, Path]]:
    """Publish a job while the block runs; yields the attempt's id and the file to beat by touching."""
    path = published_of(workspace, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    attempt = uuid.uuid4().hex
    write_json(path, {"attempt": attempt, "job": job.relative_to(workspace.root).as_posix()})
    try:
        yield attempt, path
    finally:
        path.unlink(missing_ok=True)


def _no_command(given: str, found: str) -> ParamsError:
    return ParamsError(
        "a command that starts torchrun, e.g. 'srun torchrun --nnodes 4 --nproc-per-node 8 ...'",
        found=f"{found} in {given!r}",
        where=LAUNCHER,
        mend="Write it as in a shell, without pipes; docs/cluster.md has examples.",
    )
