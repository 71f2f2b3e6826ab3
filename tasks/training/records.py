"""The record of a training run: one JSON object a step, safe against a crash.

The file is the truth; MLflow gets copies in batches while the run goes on. A resumed run forgets
the steps that it is about to repeat.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.files import write_bytes

Record = dict[str, float]
_FLUSH_EVERY = 20


class Recorder:
    """Append-only numbers by step.

    Args:
        path: File of the records.
        sink: Takes batches of new records, e.g. MLflow; called in the process that owns the run.
    """

    def __init__(self, path: Path, sink: Callable[[list[Record]], None] | None = None) -> None:
        self.path = path
        self._sink = sink
        self._sent: list[Record] = []
        self._waiting = 0

    def rewind(self, step: int) -> None:
        """Forget what was recorded at ``step`` and later."""
        kept = [row for row in self.read() if row["step"] < step]
        write_bytes(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def add(self, record: Record) -> None:
        """Append a step's numbers."""
        append_line(self.path, record)
        self._waiting += 1
        if self._waiting == _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Hand the sink what it has not seen."""
        self._waiting = 0
        if self._sink is None:
            return
        rows = self.read()
        # A run that went back has other rows now where it had some before.
        pairs = zip(rows, self._sent, strict=False)
        same = next((at for at, (a, b) in enumerate(pairs) if a != b), len(self._sent))
        if fresh := rows[same:]:
            self._sink(fresh)
        self._sent = rows

    def read(self) -> list[Record]:
        """Return all whole records; a line that a crash cut short is left out."""
        return whole_lines(self.path)

    def write_curves(self, path: Path) -> None:
        """Write all records as a CSV table, one row a step, for plots."""
        pd.DataFrame(self.read()).to_csv(path, index=False, float_format="%.7g")


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append a JSON object as a line, in the place of one that a crash cut short.

    Raises:
        ValueError: A number is not finite, which JSON cannot say.
    """
    line = json.dumps(content, allow_nan=False).encode() + b"\n"
    with path.open("a+b") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(line)


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of lines; one that a crash cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
