"""What happened to a run: resumed, passed over a checkpoint, skipped, went back, resized, stopped.

A log, not a record: two runs with equal results may have different events. So it stays in the work
folder beside the records and is never part of an output. Each event is said as well.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.progress import say


@dataclass(frozen=True, slots=True)
class Events:
    """The log of a run; only process 0 writes and says."""

    path: Path
    is_first: bool = True
    """Whether this is process 0."""

    def add(self, kind: str, step: int, message: str, **facts: Any) -> None:
        """Say what happened and append it.

        Args:
            kind: One of ``resumed, unusable, resized, skipped, rolled_back, collapsed, stopped``.
            step: The step that it happened at.
            message: For people.
            facts: For machines.
        """
        if not self.is_first:
            return
        say(f"train: step {step}: {message}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        event = {"time": now, "kind": kind, "step": step, "message": message, **facts}
        with self.path.open("a") as stream:
            stream.write(json.dumps(event, allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all whole events, oldest first."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]
