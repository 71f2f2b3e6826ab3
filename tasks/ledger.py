"""The promotion ledger: who moved which alias, when, from what to what, on which scores.

The one idea: the decision is written and flushed before the alias moves, and its end afterwards. A
crash in between leaves a decision without an end, which the next promoter finishes; nothing is ever
rewritten. One JSON object a line; a last line that a crash has cut off is no line.

Decisions: ``promote`` moves an alias, ``renew`` replaces the scores of the version that holds it,
``refuse`` changes nothing. An end that begins with ``given up`` says that nothing was done.
"""

import getpass
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.files import sync_folder

GIVEN_UP = "given up"
"""How the outcome of a decision that changed nothing begins."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """An append-only file of decisions; the caller holds the lock."""

    path: Path

    def decide(self, decision: str, **facts: Any) -> int:
        """Write a decision before it is carried out; return its number."""
        number = sum(1 for line in self.lines() if line["event"] == "decided")
        who = f"{_user()}@{socket.gethostname()}"
        facts |= {"decision": decision, "who": who, "when": _now()}
        self._append({"event": "decided", "number": number, **facts})
        return number

    def finish(self, number: int, outcome: str) -> None:
        """Write that a decision was carried out, or given up."""
        self._append({"event": "finished", "number": number, "outcome": outcome, "when": _now()})

    def unfinished(self) -> list[dict[str, Any]]:
        """Return decisions to move an alias of which no end is written, oldest first."""
        lines = list(self.lines())
        ended = {line["number"] for line in lines if line["event"] == "finished"}
        decided = (line for line in lines if line["event"] == "decided")
        return [d for d in decided if d["decision"] == "promote" and d["number"] not in ended]

    def moves_of(self, model: str) -> list[dict[str, Any]]:
        """Return the decisions to move an alias of a model, oldest first, but those given up."""
        lines = list(self.lines())
        void = {
            line["number"]
            for line in lines
            if line["event"] == "finished" and line["outcome"].startswith(GIVEN_UP)
        }
        return [
            line
            for line in lines
            if line.get("decision") == "promote"
            and line["model"] == model
            and line["number"] not in void
        ]

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield every whole line."""
        if not self.path.exists():
            return
        for line in self.path.read_bytes().split(b"\n")[:-1]:
            try:
                yield json.loads(line)
            except ValueError:
                continue  # cut off by a crash, and ended by the next writer

    def _append(self, content: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        line = json.dumps(content, sort_keys=True, allow_nan=False) + "\n"
        with self.path.open("ab") as stream:
            stream.write((b"\n" if torn and self.path.stat().st_size else b"") + line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(self.path.parent)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
