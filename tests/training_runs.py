"""Small trainings in processes of their own, killed where a test wants it.

The processes are forked by a server that has imported everything once, so a run of a few steps takes
about a second, and hundreds of kills fit into a test.
"""

import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from tasks.params import read_params
from tasks.settings.training import PretrainParams

REPOSITORY = Path(__file__).parents[1]
PRELOAD = [
    *("tasks.pretrain", "tests.training_objectives", "tests.training_runs"),
    # What the first step of a process would import.
    *("torch._inductor.compile_fx", "deepspeed.runtime.zero.muon.muon_optimizer"),
]


def small(**changes: Any) -> PretrainParams:
    """Settings of a teacher that trains nine steps in a moment; ``execution``'s may be given flat."""
    section = _settings()
    tiny = {"latent": 4, "layers": 1, "heads": 2, "feedforward": 16, "repr_dim": 24}
    section |= {"architecture": tiny, "projector": {"width": 32, "layers": 2}}
    section |= {"batch_size": 16, "steps": 9}
    section["stream"] = section["stream"] | {"held_out_blocks": 0} | changes.pop("stream", {})
    execution = section["execution"] | {"checkpoint_every": 3, "threads": 1}
    execution |= {name: changes.pop(name) for name in execution.keys() & changes.keys()}
    return PretrainParams.model_validate(section | changes | {"execution": execution})


@cache
def _settings() -> dict[str, Any]:
    return read_params(REPOSITORY / "params.yaml").pretrain.complete()


@dataclass(frozen=True, slots=True)
class Kill:
    """Where a process ends itself by SIGKILL."""

    write: int = 0
    """At its n-th flush, rename or removal: just before it, or just after it where negative."""
    batch: int = -1
    """When the objective is given this batch."""
    rank: int = 0
    """Which process."""


NEVER = Kill()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended, and what it left."""

    work: Path
    codes: list[int | None]
    """Exit codes of its processes; 0 for success, negative for a signal."""

    @property
    def error(self) -> str:
        """What the first process that failed by itself said."""
        said = sorted(self.work.glob("error-*.txt"))
        return said[0].read_text() if said else ""

    @property
    def records(self) -> list[dict[str, float]]:
        """All records."""
        lines = (self.work / "records.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def losses(self) -> list[float]:
        """Loss of each step."""
        return [row["loss"] for row in self.records]

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events."""
        path = self.work / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def kinds(self) -> list[str]:
        """Kinds of the events."""
        return [event["kind"] for event in self.events]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The encoder's last weights."""
        return {name: t.numpy() for name, t in load_file(self.work / "weights").items()}

    @property
    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that are there."""
        return sorted(path.name for path in (self.work / "checkpoints").glob("step-*"))

    def writes(self, rank: int = 0) -> list[str]:
        """Flushes, renames and removals of a process, in their order."""
        return (self.work / f"writes-{rank}").read_text().splitlines()


def run(
    work: Path,
    corpus: Path,
    params: PretrainParams,
    *,
    objective: Callable[[Path, PretrainParams], Any],
    kill: Kill = NEVER,
    limit_s: float = 120,
) -> Ended:
    """Train in processes of their own, as many as the parameters say, to the end or to the kill.

    Args:
        work: Folder of the run; one that is there is gone on with.
        corpus: Folder of the shards.
        params: Settings.
        objective: Made in each process, of the corpus and the settings.
        kill: Where a process ends itself.
        limit_s: A run that takes longer fails the test.
    """
    work.mkdir(exist_ok=True)
    for path in work.glob("error-*.txt"):
        path.unlink()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    world, port = params.execution.processes, _free_port()
    processes = [
        context.Process(
            target=_main, args=((rank, world, port), (work, corpus), params, objective, kill)
        )
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    # The others meet the end of one in their next collective.
    for process in processes:
        process.join(limit_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"a process did not end within {limit_s} s")
    return Ended(work, [process.exitcode for process in processes])


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _main(
    place: tuple[int, int, int],
    folders: tuple[Path, Path],
    params: PretrainParams,
    make: Callable[[Path, PretrainParams], Any],
    kill: Kill,
) -> None:
    (rank, world, port), (work, corpus) = place, folders
    os.chdir(REPOSITORY)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    # What PyTorch and DeepSpeed say of their own parts.
    log = os.open(work / f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from tasks.training.records import Recorder
    from tasks.training.selection import open_selection
    from tasks.training.trainer import train

    watch_writes(work / f"writes-{rank}", kill.write if kill.rank == rank else 0)
    try:
        trained = make(corpus, params)
        if kill.batch >= 0 and kill.rank == rank:
            trained.work = _killing(trained.work, kill.batch)
        records, selection = Recorder(work / "records.jsonl"), open_selection(work, params)
        weights = train(trained, params, work, records, selection)
        if rank == 0:
            save_file(weights, work / "weights")
    except BaseException as error:  # noqa: BLE001 - told to the test
        (work / f"error-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    # As in a real run: Gloo's threads sometimes abort during interpreter shutdown.
    os._exit(0)


def _killing(work: Callable[..., Any], at: int) -> Callable[..., Any]:
    def killing(module: Any, batch: Any) -> Any:
        if batch.step == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(module, batch)

    return killing


def watch_writes(log: Path, kill_at: int) -> None:
    """Count every flush, rename and removal, and end this process at one of them."""
    count = itertools.count(1)
    log.unlink(missing_ok=True)
    names: dict[str, Callable[[Any], Any]] = {
        "fsync": lambda given: Path(f"/proc/self/fd/{given[0]}").readlink(),
        "rename": lambda given: given[1],
        "replace": lambda given: given[1],
        "unlink": lambda given: given[0],
    }

    def watched(name: str) -> Callable[..., Any]:
        operation = getattr(os, name)

        def called(*arguments: Any, **keywords: Any) -> Any:
            at = next(count)
            if at == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            result = operation(*arguments, **keywords)
            what = names[name](arguments)
            with log.open("a") as stream:
                stream.write(f"{name} {what}\n")
            if at == -kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    for name in names:
        setattr(os, name, watched(name))
