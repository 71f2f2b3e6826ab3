"""Run a training here, or in as many processes as the parameters or the site's launcher ask for.

One process needs no launcher. More run the stage's own module; each rebuilds the objective from
``job.json``, so nothing is pickled, and process 0 leaves the weights as safetensors. They die with
the stage, which is asked to end before it is killed, so that the training can save itself.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.errors import Preempted, StageFailed, TesseraError
from tasks.files import sync_file, sync_folder, write_json
from tasks.lifeline import asked_first, die_with_runner
from tasks.preempted import when_asked
from tasks.settings.training import TrainingParams
from tasks.stage import Stage
from tasks.streaming.damage import SKIP, read_skipped
from tasks.tracking import EXECUTION_TAG, beside_an_error
from tasks.training.devices import share_of_devices
from tasks.training.events import EVENTS, Events
from tasks.training.launcher import (
    FAILED,
    JOB,
    LAUNCHER,
    STOPPED,
    WEIGHTS,
    attend,
    forget_ends,
    published,
    request_of,
    start,
    was_preempted,
)
from tasks.training.metering import SPEED, summarise
from tasks.training.objective import Objective
from tasks.training.records import Record, Recorder
from tasks.training.selection import open_selection
from tasks.training.trainer import train
from tasks.workspace import Workspace

AnyParams = TypeVar("AnyParams", bound=TrainingParams)


@dataclass(frozen=True, slots=True)
class Job:
    """What a training process needs to know."""

    stage: str
    """Stage address, e.g. ``distill@N``."""
    params: dict[str, Any]
    """The stage's section, as JSON, with how it is executed."""
    parents: dict[str, str]
    """Folders of the inputs by stage name."""
    work: str
    """Folder for checkpoints and records."""
    shards: str = ""
    """Where shards are read instead of the parents' folders, see ``Workspace.shards``."""

    def parent(self, name: str) -> Path:
        """Return the output folder of a parent stage."""
        return Path(self.parents[name])


def run_training(
    module_name: str,
    build: Callable[[Job, AnyParams], Objective],
    stage: Stage,
    params: AnyParams,
) -> tuple[dict[str, Tensor], Recorder]:
    """Train to the end under a running stage.

    Args:
        module_name: The stage's module, which a launcher runs in each process.
        build: Makes the objective.
        stage: The running stage.
        params: Its training parameters.

    Returns:
        The encoder's weights and the record of the run. Blocks that were skipped are listed in
        ``skipped_blocks.json`` of the stage's output.

    Raises:
        StageFailed: A training process ended with an error.
        Preempted: The training was asked to end, and has saved a checkpoint.
    """
    parents = {name: str(folder) for name, folder in stage.parents.items()}
    where = (str(stage.work), stage.workspace.shards)
    job = Job(stage.name, params.complete(), parents, *where)
    speed = Recorder(stage.work / SPEED, stage.tracker.log_speed)

    def send(records: list[Record]) -> None:
        stage.tracker.log_metrics(records)
        speed.flush()

    recorder = Recorder(stage.work / "records.jsonl", send)
    execution = params.execution.model_dump_json()
    stage.tracker.set_tags({EXECUTION_TAG: execution})
    request_of(stage.work).unlink(missing_ok=True)
    processes = params.execution.processes
    try:
        with asked_first(), share_of_devices(stage.workspace, stage.name, processes):
            if processes == 1 and LAUNCHER not in os.environ:
                selection = open_selection(stage.work, params)
                weights = train(build(job, params), params, stage.work, recorder, selection)
            else:
                weights = _train_elsewhere(module_name, job, processes, stage.workspace, recorder)
    except BaseException:
        with beside_an_error():
            _report(stage, recorder, speed)
        raise
    _report(stage, recorder, speed)
    stage.measured["training"] = total = summarise(speed.read())
    stage.tracker.log_metrics([{f"speed.{name}": value for name, value in total.items()}])
    if params.stream.on_damage == SKIP:
        skipped = read_skipped(stage.work.glob("skipped-*.jsonl"))
        write_json(stage.build / "skipped_blocks.json", skipped)
        stage.counts["skipped_blocks"] = len({row["block"] for row in skipped})
    return weights, recorder


def _report(stage: Stage, recorder: Recorder, speed: Recorder) -> None:
    """Hand over what is left of the records, and attach and count what happened to the run."""
    recorder.flush()
    speed.flush()
    events = Events(stage.work / EVENTS)
    counts = {f"events.{kind}": count for kind, count in events.counts().items()}
    stage.tracker.log_metrics([counts])
    if events.path.exists():
        stage.tracker.log_file(events.path)


def _train_elsewhere(
    module_name: str, job: Job, processes: int, workspace: Workspace, recorder: Recorder
) -> dict[str, Tensor]:
    """Train in processes of their own; one that ended before is not started again."""
    work = Path(job.work)
    if not (work / WEIGHTS).exists():
        write_json(work / "job.json", asdict(job))
        forget_ends(work)
        with published(workspace, job.stage, work / "job.json") as (attempt, beat):
            process = start(module_name, work / "job.json", attempt, processes)

            def meanwhile() -> None:
                beat.touch()
                recorder.flush()

            code, asked = attend(process, work, meanwhile)
        _check(job, code, asked)
    return load_file(work / WEIGHTS)


def _check(job: Job, code: int, asked: bool) -> None:
    """Say how a training ended that did not reach its end."""
    work = Path(job.work)
    if was_preempted(work, code, asked=asked):
        stopped = work / STOPPED
        step = json.loads(stopped.read_text())["step"] if stopped.exists() else None
        raise Preempted(step, where=job.stage)
    if code or not (work / WEIGHTS).exists():
        raise StageFailed(
            "the training processes to finish",
            found=f"exit code {code}" if code else "a launcher that ended, and no weights",
            where=job.stage,
            mend="The first error above says why; running again resumes at the last checkpoint.",
        )


def train_as_worker(
    build: Callable[[Job, AnyParams], Objective], params_type: type[AnyParams]
) -> None:
    """Be one process of a training that a launcher started; a user's error becomes one line."""
    die_with_runner()
    job = Job(**json.loads(Path(os.environ[JOB]).read_text()))
    params = params_type.model_validate(job.params)
    work = Path(job.work)
    try:
        # Before and after the loop, which listens for itself.
        with when_asked(request_of(work).touch):
            records, selection = Recorder(work / "records.jsonl"), open_selection(work, params)
            weights = train(build(job, params), params, work, records, selection)
    except Preempted as request:
        if dist.get_rank() == 0:
            write_json(work / STOPPED, {"step": request.step})
        _leave_together()
    except TesseraError as error:
        (work / FAILED).touch()
        sys.exit(f"tessera: {type(error).__name__}: {error}")
    if dist.get_rank() == 0:
        aside = work / f".{WEIGHTS}.part"
        save_file(weights, aside)
        sync_file(aside)
        aside.replace(work / WEIGHTS)
        sync_folder(work)
    _leave_together()


def _leave_together() -> NoReturn:
    """End this process well, when all have come this far.

    A training that was asked to end leaves with 0 too: ``torchrun`` would report another code as a
    crash, and kill the processes that are still on their way out.
    """
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    # All results are on the disk; Gloo's threads sometimes abort during interpreter shutdown.
    os._exit(0)
