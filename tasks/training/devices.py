"""Give trainings that run at the same time graphics cards of their own.

The students are stages of their own, started by a flow or by several people's ``dvc repro``, and
none knows of the others. So each takes a lock for every card that it uses, in the project's state;
the kernel frees it with its holder. Cards that a launcher of the site (``TESSERA_LAUNCHER``) hands
out are not shared out here, and the processor needs no sharing out: ``threads`` says its part.

Decision: a training that finds no free card waits for one, and does not share it: two trainings
together need more memory than either was tried with.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import ParamsError
from tasks.progress import say
from tasks.training.launcher import LAUNCHER
from tasks.workspace import Workspace

VISIBLE = "CUDA_VISIBLE_DEVICES"
_ACCELERATOR = "DS_ACCELERATOR"
_POLL_S = 2.0


@contextmanager
def share_of_devices(workspace: Workspace, stage: str, count: int) -> Iterator[list[str]]:
    """Hold ``count`` graphics cards while the block runs, and hide all others from its processes.

    Args:
        workspace: The project; its trainings share the machine's cards out.
        stage: Who takes them, for the message.
        count: Processes of the training, each with a card.

    Yields:
        The cards as CUDA names them; none where the training uses the processor.

    Raises:
        ParamsError: The machine has fewer cards than the training has processes.
    """
    if os.environ.get(_ACCELERATOR, "cpu") != "cuda" or LAUNCHER in os.environ:
        yield []
        return
    devices, given = _visible(), os.environ.get(VISIBLE)
    if len(devices) < count:
        raise ParamsError(
            f"a graphics card for each of {count} processes",
            found=f"{len(devices)} on {socket.gethostname()}",
            where=f"{stage}, execution.processes",
            mend=f"Set fewer processes, or unset {_ACCELERATOR} to use the processor.",
        )
    with ExitStack() as held:
        taken = _take(held, workspace.state / "devices", stage, devices, count)
        os.environ[VISIBLE] = ",".join(taken)
        try:
            yield taken
        finally:
            os.environ.pop(VISIBLE)
            os.environ.update({} if given is None else {VISIBLE: given})


def _take(held: ExitStack, folder: Path, stage: str, devices: list[str], count: int) -> list[str]:
    """Lock ``count`` cards at once, so that two who wait do not hold half of what both need."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = False
    while True:
        with ExitStack() as trial:
            # One after the other, and no more than are needed.
            taken = list(islice((n for n in devices if _lock(trial, folder, n)), count))
            if len(taken) == count:
                held.push(trial.pop_all())
                return taken
        if not waiting:
            say(f"{stage}: waiting for {count} of the {len(devices)} graphics cards to be free")
            waiting = True
        time.sleep(_POLL_S)


def _lock(trial: ExitStack, folder: Path, device: str) -> bool:
    # Slurm numbers the cards of each job from 0, whichever they are.
    owner = "-".join([socket.gethostname(), *filter(None, [os.environ.get("SLURM_JOB_ID")])])
    safe = device.replace("/", "_")
    lock = FileLock(folder / f"{owner}-{safe}.lock")
    try:
        trial.enter_context(lock.acquire(timeout=0))
    except Timeout:
        return False
    return True


def _visible() -> list[str]:
    """Return the cards that this process may use, as CUDA names them."""
    given = os.environ.get(VISIBLE)
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(listed.splitlines()))]
