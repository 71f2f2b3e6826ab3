"""Run a training here, or in as many processes as the parameters ask for.

One process needs no launcher. More are started by ``torchrun`` as the stage's own module; each
rebuilds the objective from ``job.json``, so nothing is pickled, and process 0 leaves the weights as
safetensors. They die with the stage.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.errors import StageFailed, TesseraError
from tasks.files import write_json
from tasks.lifeline import PARENT, die_with_runner
from tasks.params import TrainingParams
from tasks.stage import Stage
from tasks.streaming.damage import SKIP, read_skipped
from tasks.training.objective import Objective
from tasks.training.records import Recorder
from tasks.training.trainer import train

JOB = "TESSERA_JOB"
"""Environment variable that names ``job.json`` to a process of ``torchrun``."""
_POLL_S = 2.0
_WEIGHTS = "weights.safetensors"

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
        module_name: The stage's module, which ``torchrun`` runs in each process.
        build: Makes the objective.
        stage: The running stage.
        params: Its training parameters.

    Returns:
        The encoder's weights and the record of the run. Blocks that were skipped are listed in
        ``skipped_blocks.json`` of the stage's output.

    Raises:
        StageFailed: A training process ended with an error.
    """
    parents = {name: str(folder) for name, folder in stage.parents.items()}
    where = (str(stage.work), stage.workspace.shards)
    job = Job(stage.name, params.complete(), parents, *where)
    recorder = Recorder(stage.work / "records.jsonl", stage.tracker.log_metrics)
    if params.execution.processes == 1:
        weights = train(build(job, params), params, stage.work, recorder)
    else:
        _torchrun(module_name, job, params.execution.processes, recorder)
        weights = load_file(stage.work / _WEIGHTS)
    recorder.flush()
    if params.stream.on_damage == SKIP:
        skipped = read_skipped(stage.work.glob("skipped-*.jsonl"))
        write_json(stage.build / "skipped_blocks.json", skipped)
        stage.counts["skipped_blocks"] = len({row["block"] for row in skipped})
    return weights, recorder


def _torchrun(module_name: str, job: Job, processes: int, recorder: Recorder) -> None:
    path = Path(job.work) / "job.json"
    write_json(path, asdict(job))
    command = [
        *(sys.executable, "-m", "tasks.lifeline", sys.executable, "-m", "torch.distributed.run"),
        *("--standalone", f"--nproc-per-node={processes}", "--module", module_name),
    ]
    # The processes are tied to the launcher, not to DVC.
    inherited = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment = inherited | {JOB: str(path), "TESSERA_TIED": "1", PARENT: str(os.getpid())}
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            code = process.wait(_POLL_S)
            break
        except subprocess.TimeoutExpired:
            recorder.flush()
    if code:
        raise StageFailed(
            f"{processes} training processes to finish",
            found=f"exit code {code}",
            where=job.stage,
            mend="The first error above says why; running again resumes at the last checkpoint.",
        )


def train_as_worker(
    build: Callable[[Job, AnyParams], Objective], params_type: type[AnyParams]
) -> None:
    """Be one process of a training that ``torchrun`` started; a user's error becomes one line."""
    die_with_runner()
    job = Job(**json.loads(Path(os.environ[JOB]).read_text()))
    params = params_type.model_validate(job.params)
    work = Path(job.work)
    try:
        weights = train(build(job, params), params, work, Recorder(work / "records.jsonl"))
    except TesseraError as error:
        sys.exit(f"tessera: {type(error).__name__}: {error}")
    if dist.get_rank() == 0:
        aside = work / f".{_WEIGHTS}.part"
        save_file(weights, aside)
        aside.replace(work / _WEIGHTS)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    # All results are on the disk; Gloo's threads sometimes abort during interpreter shutdown.
    os._exit(0)
