"""Training checkpoints that are whole or absent.

DeepSpeed writes files under their final names and names the newest before every process has
written. So: all processes write into a folder that no reader looks at; process 0 hashes every file,
writes the digests, renames the folder and only then is it a checkpoint. Reading verifies the
digests before anything is unpickled, and falls back to the checkpoint before, with the reason.
"""

import json
import shutil
from pathlib import Path

import torch.distributed as dist

from tasks.files import files_below, sha256_of, swap_folder, sync_tree, write_json
from tasks.progress import say
from tasks.training.engine import Engine

_DIGESTS = "digests.json"
_KEEP = 2


def save_checkpoint(engine: Engine, folder: Path, step: int, rank: int) -> None:
    """Commit a checkpoint of all processes as ``folder/step-<step>``; older ones are retired."""
    aside = folder / ".writing"
    if rank == 0:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    dist.barrier()
    engine.save(aside, "state")
    dist.barrier()
    if rank == 0:
        digests = {p.relative_to(aside).as_posix(): sha256_of(p) for p in files_below(aside)}
        sync_tree(aside)
        write_json(aside / _DIGESTS, {"step": step, "files": digests})
        swap_folder(aside, folder / f"step-{step:08d}")
        for old in _committed(folder)[:-_KEEP]:
            shutil.rmtree(old)
    dist.barrier()


def load_checkpoint(engine: Engine, folder: Path) -> int:
    """Restore the newest checkpoint that verifies; return its step, 0 where there is none."""
    for candidate in reversed(_committed(folder)):
        if fault := _fault(candidate):
            say(f"checkpoint {candidate.name} is not used: {fault}")
            continue
        engine.load(candidate, "state")
        return int(candidate.name.removeprefix("step-"))
    return 0


def _committed(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _fault(candidate: Path) -> str | None:
    try:
        recorded = json.loads((candidate / _DIGESTS).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"no readable {_DIGESTS}: {error}"
    for name, digest in recorded.items():
        path = candidate / name
        if not path.is_file() or sha256_of(path) != digest:
            return f"{name} is missing or has other bytes than were written"
    return None
