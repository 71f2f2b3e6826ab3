"""A function in several processes that meet by Gloo."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_processes(
    number: int, work: Callable[..., Any], folder: Path, *arguments: object
) -> list[Any]:
    """Return what `work(rank, *arguments)` returns in each of `number` processes, by rank."""
    context = multiprocessing.get_context("forkserver")
    # The server imports once; a process of its own would for seconds. One that runs already will do.
    context.set_forkserver_preload(["models.pretraining", "models.replay", "models.initialisation"])
    ranks = [
        # As daemons: one that waits for a rank that has failed must not outlive the tests.
        context.Process(target=_rank, args=(rank, number, work, folder, arguments), daemon=True)
        for rank in range(number)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=240)
    assert [process.exitcode for process in ranks] == [0] * number
    return [torch.load(folder / f"{rank}.pt") for rank in range(number)]


def _rank(
    rank: int, number: int, work: Callable[..., Any], folder: Path, arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=number)
    torch.save(work(rank, *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()
