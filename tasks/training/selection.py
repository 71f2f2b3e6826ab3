"""The candidates of a training: weights at each probe, of which the downstream score keeps the best.

The one idea: whoever scores best is the result, at whatever step that was. The loss is in the table
beside the score and decides nothing (finding F1 of TESSERA v2). Where nothing is scored, later
weights are better weights, and so are they among equal scores.

A candidate is there when the index says so, which is written after its weights. A run that resumes
forgets what it is about to offer again.

It deliberately computes no score: that is ``tasks.training.probe``.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.errors import DataError, DigestMismatch
from tasks.files import sha256_of, sync_file, sync_folder, write_json
from tasks.settings.training import TrainingParams

PROBE = "probe"
"""The number that ranks candidates; higher is better."""
_INDEX = "candidates.json"
_KEEP = 3  # a run that is rolled back past its best candidate has another one


@dataclass(frozen=True, slots=True)
class Candidate:
    """Weights that a training passed through."""

    step: int
    """Steps that had been taken."""
    numbers: Mapping[str, float]
    """How they score."""
    sha256: str | None
    """Of the file of the weights; ``None`` where better ones took their place."""

    @property
    def rank(self) -> tuple[float, int]:
        """What the candidates are compared by."""
        return self.numbers.get(PROBE, -math.inf), self.step


class Selection:
    """The candidates of one run, on the disk.

    Args:
        folder: Of this run alone; made if absent.
        keep: How many of the best keep their weights, at least 1.
        pinned: Steps that keep theirs whatever they score.
    """

    def __init__(self, folder: Path, keep: int, pinned: Collection[int] = ()) -> None:
        if keep < 1:
            raise ValueError(f"expected at least one candidate to keep, got {keep}")
        self.folder, self._keep, self._pinned = folder, keep, frozenset(pinned)

    def offer(self, step: int, weights: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
        """Enter the weights after ``step`` steps; an earlier offer of the step is replaced.

        Raises:
            DataError: A number is not finite.
        """
        _require_finite(step, numbers)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(step)
        aside = path.with_suffix(".part")
        save_file(dict(weights), aside)
        sync_file(aside)
        aside.replace(path)
        sync_folder(self.folder)
        offered = Candidate(step, dict(numbers), sha256_of(path))
        self._write([*(c for c in self.table() if c.step != step), offered])

    def rewind(self, step: int) -> None:
        """Forget the candidates after ``step`` steps were taken."""
        if self.folder.exists():
            self._write([c for c in self.table() if c.step <= step])

    def best(self) -> Candidate | None:
        """Return the candidate of the highest rank that has its weights; ``None`` without any."""
        held = [c for c in self.table() if c.sha256 is not None]
        return max(held, key=lambda candidate: candidate.rank, default=None)

    def table(self) -> list[Candidate]:
        """Return all candidates by step, those without weights too."""
        path = self.folder / _INDEX
        rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return [Candidate(**row) for row in rows]

    def weights(self, candidate: Candidate) -> dict[str, Tensor]:
        """Return the weights of a candidate.

        Raises:
            DigestMismatch: They are not there as they were offered.
        """
        path = self._path(candidate.step)
        found = sha256_of(path) if path.is_file() else "no such file"
        if candidate.sha256 is None or found != candidate.sha256:
            raise DigestMismatch(
                f"weights with sha256 {str(candidate.sha256)[:12]}",
                found=found[:12],
                where=str(path),
                mend="Remove the work folder that it lies in and train again.",
            )
        return load_file(path)

    def _write(self, candidates: list[Candidate]) -> None:
        """Write the index, and then remove what it does not need."""
        held = [c for c in candidates if c.sha256 is not None]
        best = sorted(held, key=lambda candidate: candidate.rank)[-self._keep :]
        kept = {c.step for c in best} | self._pinned
        rows = [
            asdict(c) if c.step in kept else asdict(c) | {"sha256": None}
            for c in sorted(candidates, key=lambda candidate: candidate.step)
        ]
        write_json(self.folder / _INDEX, rows)
        needed = {self._path(row["step"]) for row in rows if row["sha256"] is not None}
        for path in {*self.folder.glob("*.safetensors"), *self.folder.glob("*.part")} - needed:
            path.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"


def open_selection(work: Path, params: TrainingParams) -> Selection:
    """Return the candidates of the run that works in a folder."""
    return Selection(work / "candidates", _KEEP, params.kept_steps)


def _require_finite(step: int, numbers: Mapping[str, float]) -> None:
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise DataError(
                "finite scores",
                found=f"{name} {value}",
                where=f"the probe after {step} steps",
                mend="The model has diverged: lower learning_rate, or narrow guard.sigmas.",
            )
