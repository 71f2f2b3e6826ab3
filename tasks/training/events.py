"""What happened to a run: resumed, passed over a checkpoint, skipped, went back, resized, stopped.

A log, not a record: two runs with equal results may have different events. So it stays in the work
folder beside the records and is never part of an output. Each event is said as well; the stage's
MLflow run gets the log and how many there were of each kind.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.progress import say
from tasks.training.records import append_line, whole_lines

EVENTS = "events.jsonl"
"""File of the events, in the work folder."""
KINDS = ("resumed", "unusable", "resized", "skipped", "rolled_back", "collapsed", "stopped")


@dataclass(frozen=True, slots=True)
class Events:
    """The log of a run; only process 0 writes and says."""

    path: Path
    is_first: bool = True
    """Whether this is process 0."""

    def add(self, kind: str, step: int, message: str, **facts: Any) -> None:
        """Say what happened and append it.

        Args:
            kind: One of ``KINDS``.
            step: The step that it happened at.
            message: For people.
            facts: For machines.
        """
        if not self.is_first:
            return
        say(f"train: step {step}: {message}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        event = {"time": now, "kind": kind, "step": step, "message": message}
        append_line(self.path, event | facts)

    def read(self) -> list[dict[str, Any]]:
        """Return all whole events, oldest first."""
        return whole_lines(self.path)

    def counts(self) -> dict[str, float]:
        """Return how many there were of each kind, 0 where none, over all attempts of the run."""
        found = Counter(event["kind"] for event in self.read())
        return {kind: float(found[kind]) for kind in KINDS}
