"""Go on with other processes, or another ZeRO stage, than a checkpoint was written by.

The one idea: a checkpoint is written in the shape of its run, which is cheap, and converted when a
run of another shape wants it, which is rare. DeepSpeed's universal form holds each weight and its
moments whole; every process then takes its share. The conversion happens in a process of its own,
with a time limit, after the digests have been compared, into a folder that is removed afterwards.

The batch is never changed: every number of processes that is allowed sees the same rows in the same
order, so losses are those of the uninterrupted run but for the order of sums.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tasks.errors import ParamsError, StageFailed
from tasks.lifeline import PARENT
from tasks.training.checkpoints import STATE, Found
from tasks.training.engine import Engine

_LIMIT_S = 1200
"""Less than the time after which the processes that wait for it give up (``engine.PATIENCE``)."""
_PARTS = ("fp32", "exp_avg", "exp_avg_sq")


def restore(engine: Engine, found: Found, work: Path) -> bool:
    """Load a checkpoint that verifies, converted if it has another shape. Every process calls it.

    Returns:
        Whether it was converted.

    Raises:
        ParamsError: Written by ZeRO stage 3 and to be read by another, or the reverse.
        StageFailed: The conversion failed or took too long.
    """
    stage = found.manifest["zero_stage"]
    if (stage, found.manifest["world"]) == (engine.zero_stage, dist.get_world_size()):
        engine.load(found.folder, STATE, universal=False)
        return False
    if (stage == 3) != (engine.zero_stage == 3):
        raise ParamsError(
            f"ZeRO stage {'3' if stage == 3 else '1 or 2'}, as the checkpoint was written by",
            found=f"stage {engine.zero_stage}",
            where=str(found.folder),
            mend="DeepSpeed does not convert between stage 3 and the others: go on with a file of"
            " infra/deepspeed/ that fits as execution.deepspeed. The processes may change.",
        )
    with _converted(found, work / "resizing", engine.parameter_names) as folder:
        engine.load(folder, STATE, universal=True)
    return True


@contextmanager
def _converted(found: Found, folder: Path, names: list[str]) -> Iterator[Path]:
    told: list[Any] = [None]
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        told = [_convert(found.folder / STATE, folder / STATE, names)]
    dist.broadcast_object_list(told, src=0)
    if told[0]:
        raise StageFailed(
            "the checkpoint to be converted for another number of processes or ZeRO stage",
            found=str(told[0]),
            where=str(found.folder),
            mend=f"Go on with processes {found.manifest['world']} and ZeRO stage"
            f" {found.manifest['zero_stage']}, as it was written by.",
        )
    try:
        yield folder
    finally:
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(folder)


def _convert(written: Path, universal: Path, names: list[str]) -> str | None:
    """Convert, and return what went wrong, if anything."""
    universal.mkdir(parents=True)
    command = [
        # An orphan would write beside the conversion of the next attempt.
        *(sys.executable, "-m", "tasks.lifeline"),
        *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"),
        *("--input_folder", str(written), "--output_folder", str(universal)),
        *("--num_extract_workers", "1", "--num_merge_workers", "1"),
    ]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", PARENT: str(os.getpid())}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end after {_LIMIT_S} s"
    if done.returncode:
        return "; ".join(done.stderr.strip().splitlines()[-2:]) or f"exit code {done.returncode}"
    wanted = [universal / "zero" / name / f"{part}.pt" for name in names for part in _PARTS]
    missing = [path.relative_to(universal).as_posix() for path in wanted if not path.is_file()]
    return f"{len(missing)} files missing, {missing[0]} the first" if missing else None
