"""What to do about a block that cannot be read: stop, or go on without it and write that down.

Nothing is ever read as zeros. Under ``skip`` the caller takes another block; each one that was
skipped is said once and recorded for every epoch, in a file of this process, so that the stage can
list all of them at the end. Decision: a process may skip the given share of the blocks that its
lanes pass in an epoch, so all processes together never skip more than that share of the corpus;
what an epoch skipped before a crash counts.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.errors import ShardDamaged
from tasks.files import write_bytes
from tasks.progress import say

STOP, SKIP = "stop", "skip"

Skipped = dict[str, Any]
"""``epoch``, ``window``, ``block``, and where, expected and found of the error."""


class Damage:
    """Decides about damaged blocks and remembers them.

    Args:
        policy: ``stop`` or ``skip``.
        allowed: Blocks that may be skipped in an epoch.
        record: File that takes one line for each block and epoch.
    """

    def __init__(self, policy: str, allowed: int, record: Path) -> None:
        self._policy, self._allowed, self._record = policy, allowed, record
        self._met = {(row["epoch"], row["block"]) for row in _rows(record)}
        self._said: set[int] = set()

    def rewind(self, epoch: int, window: int) -> None:
        """Forget what was met in this window of an epoch and later."""
        if not self._record.exists():
            return
        kept = [
            row for row in _rows(self._record) if (row["epoch"], row["window"]) < (epoch, window)
        ]
        write_bytes(self._record, "".join(map(_line, kept)).encode())
        self._met = {(row["epoch"], row["block"]) for row in kept}

    def meet(self, error: ShardDamaged, epoch: int, window: int, block: int) -> None:
        """Record a damaged block, or raise if the run must end."""
        if self._policy == STOP:
            raise error
        if block not in self._said:
            say(f"skipped: {error}")
        self._said.add(block)
        if (epoch, block) in self._met:
            return
        self._met.add((epoch, block))
        place = {"epoch": epoch, "window": window, "block": block}
        facts = {"where": error.where, "expected": error.expected, "found": error.found}
        with self._record.open("a") as stream:
            stream.write(_line(place | facts))
        now = sum(at == epoch for at, _ in self._met)
        if now > self._allowed:
            raise ShardDamaged(
                f"at most {self._allowed} damaged blocks an epoch in the lanes of this process",
                found=f"{now}, the last: {error.found} instead of {error.expected}",
                where=error.where,
                mend="Restore the shards, or raise stream.max_damaged_share in params.yaml.",
            ) from error


def read_skipped(records: Iterable[Path]) -> list[Skipped]:
    """Return what all processes skipped, each block and epoch once, in order."""
    found = {(row["epoch"], row["block"]): row for path in sorted(records) for row in _rows(path)}
    return [row for _, row in sorted(found.items())]


def _line(row: Skipped) -> str:
    return json.dumps(row) + "\n"


def _rows(record: Path) -> list[Skipped]:
    """Return what is recorded; a line that a crash cut short is left out."""
    lines = record.read_text().splitlines(keepends=True) if record.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
