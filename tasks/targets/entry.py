"""One entry of the store: the targets of one shard, and all that is known about them.

    targets.arrow   a target shard as a stage's output holds it
    moments.npy     (d + 1, d) float64: mean, then covariance, of the targets as stored
    entry.json      the address in its parts, rows, blocks, digests of both files, what rounding did

The one idea: an entry says of itself what it is, so it is believed for its digests and never for the
name of its folder. ``entry.json`` holds a digest over the rest of itself as well.

It deliberately knows nothing of other entries. The digests find damage, not malice: whoever may write
to the store may put wrong targets there.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.diagnostics import Moments
from tasks.errors import DigestMismatch
from tasks.files import canonical_json, sha256_of, write_json
from tasks.shards.index import Block, ShardEntry
from tasks.shards.records import entry_of, entry_record
from tasks.targets.address import Address
from tasks.targets.checks import Rounding

TARGETS, MOMENTS, ENTRY = "targets.arrow", "moments.npy", "entry.json"
_MEND = "Nothing to do: it is made again."


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known about the targets of one shard."""

    address: Address
    shard: ShardEntry
    """The file, under its name in the store."""
    blocks: list[Block]
    moments: Moments
    rounding: Rounding


def write_entry(folder: Path, entry: Entry) -> None:
    """Write what is known beside ``targets.arrow``, which is there already."""
    moments = torch.cat((entry.moments.mean[None], entry.moments.covariance)).numpy()
    with (folder / MOMENTS).open("wb") as stream:
        np.save(stream, moments, allow_pickle=False)
    content = {
        "address": asdict(entry.address),
        "targets": entry_record(entry.shard, entry.blocks),
        "rounding": asdict(entry.rounding),
        "moments": sha256_of(folder / MOMENTS),
    }
    write_json(folder / ENTRY, content | {"digest": _digest(content)})


def read_entry(folder: Path) -> Entry:
    """Read what an entry says, without its targets.

    Raises:
        DigestMismatch: A file is missing, damaged, or of another address than the folder's.
    """
    try:
        content = json.loads((folder / ENTRY).read_bytes())
        promised = content.pop("digest")
        _require(promised, _digest(content), folder / ENTRY)
        entry = _parse(folder, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(
            "an entry that can be read", f"{type(error).__name__}: {error}", folder
        ) from error
    _require(folder.name, entry.address.digest, folder / ENTRY)
    return entry


def require_whole(place: Path, entry: Entry, path: Path) -> None:
    """Hash targets, in their entry or where they were put, as the entry says they are.

    Raises:
        DigestMismatch: They are not there, or other bytes.
    """
    found = sha256_of(path) if path.is_file() else "no file"
    _require(entry.shard.sha256, found, place / TARGETS)


def moments_of(entries: Sequence[Entry]) -> Moments:
    """Return mean and covariance over the targets of several entries, at least one."""
    together = Moments(len(entries[0].moments.mean))
    for entry in entries:
        together.merge(entry.moments)
    return together


def _parse(folder: Path, content: dict[str, Any]) -> Entry:
    shard, blocks = entry_of(content["targets"])
    _require(content["moments"], sha256_of(folder / MOMENTS), folder / MOMENTS)
    moments = torch.from_numpy(np.load(folder / MOMENTS, allow_pickle=False))
    return Entry(
        Address(**content["address"]),
        shard,
        blocks,
        Moments.of(shard.rows, moments[0], moments[1:]),
        Rounding(**content["rounding"]),
    )


def _digest(content: dict[str, Any]) -> str:
    return sha256(canonical_json(content).encode()).hexdigest()


def _require(expected: str, found: str, where: Path) -> None:
    if found != expected:
        raise _damaged(f"sha256 {expected[:12]}", found[:12], where)


def _damaged(expected: str, found: str, where: Path) -> DigestMismatch:
    return DigestMismatch(expected, found=found, where=str(where), mend=_MEND)
