"""Training checkpoints that are whole or absent.

DeepSpeed writes files under their final names and names the newest before every process has
written. So every process writes into a folder that no reader looks at, flushes and hashes its own
files and lists them; process 0 sees that nothing is missing, writes the manifest, renames the folder
and only then points to it. Reading compares digests before anything is unpickled, and falls back to
the checkpoint before, with the reason.

What a checkpoint belongs to is in its manifest: settings and data of another run are refused, since
going on with them would be a run that nobody can repeat. How a run is carried out may differ.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tasks.errors import LineageError, StorageError
from tasks.files import (
    canonical_json,
    files_below,
    sha256_of,
    swap_folder,
    sweep_parts,
    sync_file,
    sync_folder,
    write_json,
)
from tasks.settings.training import ExecutionParams
from tasks.training.engine import VERSION, Engine

MANIFEST = "manifest.json"
LATEST = "latest.json"
STATE = "state"
"""Folder, inside a checkpoint, of the files that DeepSpeed writes."""

_SEAL = "sha256"
_NAME = re.compile(r"step-\d{8,}")
_OWNER = re.compile(r"zero_pp_rank_(\d+)_")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint belongs to."""

    settings: dict[str, Any]
    """Parameters that change what is computed."""
    data: str
    """Fingerprint of what is streamed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that verifies."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps that were done."""
        return int(self.manifest["step"])


def save_checkpoint(engine: Engine, folder: Path, facts: dict[str, Any], step: int) -> None:
    """Commit the state of all processes as ``folder/step-<step>``. Every process must call it.

    Args:
        engine: What is saved.
        folder: Folder of the run's checkpoints.
        facts: What else the manifest says: identity, guard, whether it was due.
        step: Steps that were done.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    aside = folder / ".writing"
    if rank == 0:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / STATE).mkdir(parents=True)
    dist.barrier()
    engine.save(aside, STATE)
    dist.barrier()
    _list_own_files(aside, rank)
    dist.barrier()
    if rank == 0:
        about = {
            "step": step,
            "world": world,
            "zero_stage": engine.zero_stage,
            "versions": {"torch": torch.__version__, "deepspeed": VERSION},
            "files": _collected(aside, world),
        }
        write_json(aside / MANIFEST, sealed(facts | about))
        sync_folder(aside / STATE)
        final = folder / f"step-{step:08d}"
        swap_folder(aside, final)
        write_json(folder / LATEST, {"name": final.name})
    dist.barrier()


def retire(folder: Path, execution: ExecutionParams, step: int) -> None:
    """Remove checkpoints that are not kept, oldest first; called on process 0 alone.

    Those that were due and the newest of all count; one that a stop asked for goes when the next is
    there. Those of steps after ``step``, where the run is, did not verify: they count for nothing,
    and are written over as the run gets there.
    """
    names = [name for name in _names(folder) if _step_of(name) <= step]
    due = [name for name in names if _manifest(folder / name).get("due", False)]
    every = execution.keep_every
    kept = {*due[-execution.keep_last :], *names[-1:]}
    kept |= {name for name in names if every and _step_of(name) and _step_of(name) % every == 0}
    _remove(folder, [name for name in names if name not in kept])


def forget_after(folder: Path, step: int) -> None:
    """Remove checkpoints of later steps, which a run that went back has left behind it."""
    _remove(folder, [name for name in _names(folder) if _step_of(name) > step])


def find_checkpoint(
    folder: Path, identity: Identity, tell: Callable[[str, str], None], *, due: bool = False
) -> Found | None:
    """Find the newest checkpoint that verifies. Every process must call it; all get the same.

    Args:
        folder: Folder of the run's checkpoints.
        identity: What the checkpoint must belong to.
        tell: Given the name of a checkpoint that is passed over, and why.
        due: Only those that were due, which are the same whenever the run was stopped.

    Raises:
        LineageError: The checkpoint belongs to other settings or data.
    """
    for name, manifest in _agreed(folder):
        if due and not manifest.get("due", False):
            continue
        faults = _gathered(list(_faults(folder / name, manifest)))
        if not faults:
            _require_same(identity, manifest, folder / name)
            return Found(folder / name, manifest)
        tell(name, "; ".join(faults[:3]))
    return None


def _list_own_files(aside: Path, rank: int) -> None:
    own = [path for path in files_below(aside / STATE) if _owner(path) == rank]
    for path in own:
        sync_file(path)
    listed = {
        path.relative_to(aside).as_posix(): {
            "size": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in own
    }
    write_json(aside / f"rank-{rank}.json", listed)


def _owner(path: Path) -> int:
    """Return the process that wrote a file; what has no number is process 0's."""
    found = _OWNER.search(path.name)
    return int(found.group(1)) if found else 0


def _collected(aside: Path, world: int) -> dict[str, Any]:
    files: dict[str, Any] = {}
    for rank in range(world):
        files |= json.loads((aside / f"rank-{rank}.json").read_text())
    written = {path.relative_to(aside).as_posix() for path in files_below(aside / STATE)}
    if written != files.keys():
        raise StorageError(
            "every file of the checkpoint to be listed by the process that wrote it",
            found=", ".join(sorted(written ^ files.keys())),
            where=str(aside),
            mend="The folder must be on a file system that all processes share.",
        )
    return files


def _remove(folder: Path, names: list[str]) -> None:
    """Remove checkpoints, and what a kill left of removing or writing; none is ever seen in part."""
    for name in names:
        (folder / name).rename(folder / f".{name}.old")
    for left in folder.glob(".step-*.old"):
        shutil.rmtree(left)
    sweep_parts(folder / LATEST)


def _step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with the digest of all that it says."""
    facts = {name: value for name, value in manifest.items() if name != _SEAL}
    return facts | {_SEAL: sha256(canonical_json(facts).encode()).hexdigest()}


def _manifest(checkpoint: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest, empty where there is none as it was written."""
    try:
        found = json.loads((checkpoint / MANIFEST).read_text())
        return found if isinstance(found, dict) and sealed(found) == found else {}
    except (OSError, ValueError):
        return {}


def _faults(checkpoint: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with this process's share of a checkpoint's files."""
    if not manifest or checkpoint.name != f"step-{manifest['step']:08d}":
        yield f"no {MANIFEST} as it was written"
        return
    files = manifest["files"]
    names = sorted(files)
    if dist.get_rank() == 0:  # DeepSpeed looks for names, and reads what it finds
        there = {
            path.relative_to(checkpoint).as_posix() for path in files_below(checkpoint / STATE)
        }
        yield from (f"{name} is not listed" for name in sorted(there - files.keys()))
    for name in names[dist.get_rank() :: dist.get_world_size()]:
        path = checkpoint / name
        if not path.resolve().is_relative_to(checkpoint.resolve()):
            yield f"{name} lies outside"
        elif not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != files[name]["size"] or sha256_of(path) != files[name]["sha256"]:
            yield f"{name} has other bytes than were written"


def _agreed(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return names and manifests, newest first, as process 0 sees them."""
    names = reversed(_names(folder)) if dist.get_rank() == 0 else []
    told: list[Any] = [[(name, _manifest(folder / name)) for name in names]]
    dist.broadcast_object_list(told, src=0)
    agreed: list[tuple[str, dict[str, Any]]] = told[0]
    return agreed


def _gathered(faults: list[str]) -> list[str]:
    all_faults: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(all_faults, faults)
    return [fault for own in all_faults for fault in own]


def _require_same(identity: Identity, manifest: dict[str, Any], where: Path) -> None:
    wanted, found = identity.settings, manifest["settings"]
    other = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    if manifest["data"] != identity.data:
        other.append("the data")
    if other:
        raise LineageError(
            "a checkpoint of this run",
            found=f"one with other values of {', '.join(sorted(other))}",
            where=str(where),
            mend="Go on with the settings and shards that it was begun with, or remove its folder.",
        )
