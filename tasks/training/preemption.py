"""Whether a training has been asked to end, with one answer for all its processes.

A request comes as SIGTERM to any of the processes, or as a file in the work folder, by which
whoever started the processes hands on a request of its own. Each step all processes ask together, so
all stop after the same step, and the checkpoint that follows is whole. Saving it is the loop's.
"""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist

from tasks.preempted import when_asked
from tasks.training.launcher import request_of


class Preemption:
    """The requests to end that reach one process of a training, while its loop runs.

    Args:
        work: Work folder of the training, the same on every process.
    """

    def __init__(self, work: Path) -> None:
        self._request = request_of(work)
        self._signalled = False
        self._handler = ExitStack()

    def __enter__(self) -> Self:
        self._handler.enter_context(when_asked(self._note))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handler.close()

    def requested(self) -> bool:
        """Return whether any process has been asked to end.

        Every process must call it after the same step, and each gets the same answer.
        """
        asked = self._signalled or self._request.exists()
        if dist.get_world_size() == 1:
            return asked
        on_gpu = dist.get_backend() == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu"
        answer = torch.tensor(int(asked), device=device)
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        return bool(answer.item())

    def _note(self) -> None:
        self._signalled = True
