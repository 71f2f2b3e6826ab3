"""Join a training from a machine on which nobody can start a process from the stage's machine.

    python -m tasks.training.follow pretrain

Pods of Kubernetes cannot start each other's programs. So the stage runs in one of them, and each
other runs this: it waits in the shared project folder for the job that the stage publishes, starts
the same launcher (``TESSERA_LAUNCHER``) on it, and ends as it ends. If the stage dies, what was
started here is ended, and the next attempt is waited for. It has no say in the training.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import DataError, ParamsError, Preempted, StageFailed, TesseraError
from tasks.preempted import leave_with, when_asked
from tasks.progress import say
from tasks.training.launcher import LAUNCHER, POLL_S, attend, published_of, start, was_preempted
from tasks.workspace import Workspace, find_workspace

TRAININGS = ("pretrain", "distill")

_SILENCE_S = 120.0  # network file systems show a new time of change up to a minute late


@dataclass
class Heard:
    """A published job, and whether it was heard to beat.

    Args:
        path: The published file.
    """

    path: Path
    attempt: str = ""
    job: str = ""
    _beat: int = 0
    _last: float | None = None

    @property
    def alive(self) -> bool:
        """Whether it has beaten while we listened, and not long ago."""
        return self._last is not None and time.monotonic() - self._last < _SILENCE_S

    def listen(self) -> None:
        """Look again. A file that is gone or not whole is silence."""
        try:
            beat, content = self.path.stat().st_mtime_ns, json.loads(self.path.read_text())
            attempt, job = str(content["attempt"]), str(content["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if attempt != self.attempt:
            self.attempt, self.job, self._beat, self._last = attempt, job, beat, None
        elif beat != self._beat:
            self._beat, self._last = beat, time.monotonic()


def follow(workspace: Workspace, stage: str) -> None:
    """Be one machine of a stage's training, until the training has ended.

    Args:
        workspace: The project, on a file system that all machines share.
        stage: Its address, e.g. ``pretrain`` or ``distill@N``.

    Raises:
        Preempted: The training was asked to end, and has saved itself.
        StageFailed: The processes of this machine ended with an error.
        ParamsError: The stage is no training, or no launcher is named.
    """
    if stage.partition("@")[0] not in TRAININGS:
        raise ParamsError(
            f"one of the trainings {', '.join(TRAININGS)}@<size>",
            found=repr(stage),
            where="tasks.training.follow",
            mend="Name the stage that the first machine runs.",
        )
    if LAUNCHER not in os.environ:
        raise ParamsError(
            "the same command as on the first machine",
            found="nothing",
            where=LAUNCHER,
            mend="Set it; docs/cluster.md has examples.",
        )
    while not _took_part(workspace, stage):
        say(f"{stage}: the stage is gone; its processes here were ended")


def _took_part(workspace: Workspace, stage: str) -> bool:
    """Take part in the next attempt; return whether it ended, and was not abandoned."""
    heard = _next_attempt(workspace, stage)
    attempt, job = heard.attempt, _job_inside(workspace, heard)
    say(f"{stage}: joining attempt {attempt[:8]}")
    process = start(f"tasks.{stage.partition('@')[0]}", job, attempt, processes=1)
    abandoned = False

    def end_if_abandoned() -> None:
        nonlocal abandoned
        heard.listen()
        if heard.attempt != attempt or not heard.alive:
            abandoned = True
            process.kill()  # and its processes with it; without the others they can save nothing

    code, asked = attend(process, job.parent, end_if_abandoned)
    if abandoned:
        return False
    if was_preempted(job.parent, code, asked=asked):
        raise Preempted(where=stage)
    if code:
        raise StageFailed(
            "the processes of this machine to finish",
            found=f"exit code {code}",
            where=stage,
            mend="The first error above, or on another machine, says why; start it again.",
        )
    return True


def _next_attempt(workspace: Workspace, stage: str) -> Heard:
    heard = Heard(published_of(workspace, stage))
    requested: list[bool] = []
    with when_asked(lambda: requested.append(True)):
        say(f"{stage}: waiting for the stage to publish its job")
        while not heard.alive:
            if requested:
                raise Preempted(where=stage)
            heard.listen()
            time.sleep(POLL_S)
    return heard


def _job_inside(workspace: Workspace, heard: Heard) -> Path:
    """Return the published ``job.json``, which must lie among the work of this project."""
    job = (workspace.root / heard.job).resolve()
    if job.is_relative_to((workspace.state / "work").resolve()):
        return job
    raise DataError(
        "a job in .tessera/work",
        found=heard.job,
        where=str(heard.path),
        mend="Remove the file; the stage publishes it anew when it runs.",
    )


def main() -> None:
    """Follow the stage that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tasks.training.follow", description=__doc__)
    parser.add_argument("stage", help="address of the training, e.g. pretrain or distill@N")
    stage = parser.parse_args().stage
    try:
        follow(find_workspace(), stage)
    except (TesseraError, ValueError) as error:
        leave_with(error)


if __name__ == "__main__":
    main()
