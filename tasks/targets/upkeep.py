"""What the store of targets holds, and making room in it.

The one idea: an entry can always be made again, so removing one costs time and never results; the
store itself removes nothing. What goes first is what was used longest ago: taking an entry touches it.

Bytes that an output or DVC's cache links to as well are freed only when those are gone too, so they
are told apart.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.errors import DigestMismatch
from tasks.files import files_below
from tasks.targets.entry import ENTRY, TARGETS, read_entry, require_whole
from tasks.targets.store import ASIDE, TargetStore

_UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry, for people."""

    address: str
    teacher: str
    """Digest of the teacher, or ``unreadable`` where the entry is damaged."""
    dtype: str
    rows: int
    bytes: int
    """Of its files."""
    own_bytes: int
    """Of those, what nothing outside the store links to."""
    used: datetime
    """When it was made or last taken, UTC."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What making room removed or would remove."""

    entries: list[Kept]
    busy: list[Kept]
    """Left, because a run is at them."""
    leftovers: int
    """Half-made entries of killed runs."""


def list_entries(store: TargetStore) -> list[Kept]:
    """Return all entries, the one that was used longest ago first."""
    found = [_look(place) for place in _places(store)]
    return sorted(found, key=lambda kept: (kept.used, kept.address))


def find_damaged(store: TargetStore) -> dict[str, str]:
    """Read every entry in full; return what is wrong by address."""
    faults = {}
    for place in _places(store):
        try:
            require_whole(place, read_entry(place), place / TARGETS)
        except DigestMismatch as error:
            faults[place.name] = str(error)
    return faults


def choose(
    entries: Sequence[Kept],
    now: datetime,
    *,
    max_bytes: int | None = None,
    unused_days: float | None = None,
    teacher: str = "",
) -> list[Kept]:
    """Choose what to remove.

    Args:
        entries: As ``list_entries``, oldest use first.
        now: UTC.
        max_bytes: What may stay; of the rest, the oldest go.
        unused_days: What was not used for longer goes.
        teacher: Only entries of teachers whose digest begins so; empty for all.
    """
    candidates = [kept for kept in entries if kept.teacher.startswith(teacher)]
    limit = None if unused_days is None else now - timedelta(days=unused_days)
    gone = [kept for kept in candidates if limit is not None and kept.used < limit]
    if max_bytes is not None:
        left = [kept for kept in candidates if kept not in gone]
        total = sum(kept.bytes for kept in left)
        for kept in left:
            if total <= max_bytes:
                break
            gone.append(kept)
            total -= kept.bytes
    return gone


def remove(store: TargetStore, chosen: Sequence[Kept], *, apply: bool) -> Removed:
    """Remove entries and what killed runs left; without ``apply`` only say what that would be."""
    gone: list[Kept] = []
    busy: list[Kept] = []
    for kept in chosen:
        with store.alone(kept.address, wait=False) as alone:
            (gone if alone else busy).append(kept)
            if alone and apply:
                store.forget(kept.address)
    return Removed(gone, busy, _sweep(store, apply=apply))


def _sweep(store: TargetStore, *, apply: bool) -> int:
    count = 0
    for left in sorted((store.folder / ASIDE).glob("*")):
        with store.alone(left.name.removesuffix(".removed"), wait=False) as alone:
            if alone and left.is_dir():
                count += 1
                if apply:
                    shutil.rmtree(left)
    return count


def _places(store: TargetStore) -> list[Path]:
    return sorted(path for path in store.folder.glob("[0-9a-f][0-9a-f]/*") if path.is_dir())


def _look(place: Path) -> Kept:
    stats = [path.stat() for path in files_below(place)]
    size, own = sum(s.st_size for s in stats), sum(s.st_size for s in stats if s.st_nlink == 1)
    described = place / ENTRY if (place / ENTRY).is_file() else place
    used = datetime.fromtimestamp(described.stat().st_mtime, UTC)
    try:
        entry = read_entry(place)
    except DigestMismatch:
        return Kept(place.name, _UNREADABLE, "", 0, size, own, used)
    address = entry.address
    return Kept(place.name, address.teacher, address.dtype, entry.shard.rows, size, own, used)
