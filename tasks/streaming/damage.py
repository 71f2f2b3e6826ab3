"""What to do about a block that cannot be read: stop, or go on without it and write that down.

Nothing is ever read as zeros. Under ``skip`` the caller takes another block; each one that was
skipped is said once and recorded for every epoch, in a file of this process, so that the stage can
list all of them at the end. Decision: a process may skip the given share of the blocks that its
lanes pass in an epoch, so all processes together never skip more than that share of the corpus.
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
"""``epoch``, ``block``, and where, expected and found of the error."""


class Damage:
    """Decides about damaged blocks and remembers them.

    Args:
        policy: ``stop`` or ``skip``.
        allowed: Blocks that may be skipped in an epoch.
        record: File that takes one line for each block and epoch.
    """

    def __init__(self, policy: str, allowed: int, record: Path) -> None:
        self._policy, self._allowed, self._record = policy, allowed, record
        self._met: set[tuple[int, int]] = set()
        if record.exists():  # a line that a crash cut short would spoil the next one
            write_bytes(record, "".join(_whole_lines(record)).encode())

    def meet(self, error: ShardDamaged, epoch: int, block: int) -> None:
        """Record a damaged block, or raise if the run must end."""
        if self._policy == STOP:
            raise error
        if (epoch, block) in self._met:
            return
        if block not in {known for _, known in self._met}:
            say(f"skipped: {error}")
        self._met.add((epoch, block))
        facts = {"where": error.where, "expected": error.expected, "found": error.found}
        with self._record.open("a") as stream:
            stream.write(json.dumps({"epoch": epoch, "block": block, **facts}) + "\n")
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
    lines = {line for path in records for line in _whole_lines(path)}
    return sorted(map(json.loads, lines), key=lambda row: (row["epoch"], row["block"]))


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_text().splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
