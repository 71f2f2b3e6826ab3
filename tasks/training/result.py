"""What a training leaves: the checkpoint that was selected, and how all candidates compare.

The one idea: the table says for each candidate what it scored and what its loss was, and how far the
two go together, so that whoever reads it sees why the loss does not select.

    model.safetensors, config.json   the selected weights
    checkpoints.csv, .json           the candidates, and the correlation of loss and score
    curves.csv                       the numbers of every step
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.architecture import StudentConfig, TeacherConfig
from models.checkpoint import checkpoint_config, write_checkpoint
from models.correlation import pearson, spearman
from tasks.errors import LineageError
from tasks.files import write_bytes, write_json
from tasks.packing.normalisation import resolve
from tasks.progress import say
from tasks.scores import CHECKPOINTS
from tasks.settings.training import DistillParams, PretrainParams
from tasks.stage import Stage
from tasks.training.records import Recorder
from tasks.training.selection import PROBE, Candidate, open_selection

HELD_OUT_LOSS = "held_out_loss"
_DIGITS = 7  # below what a score can resolve
_OF_STEP = ("loss", "barlow_twins")  # what the table takes from the record of the step before


@dataclass(frozen=True, slots=True)
class Result:
    """The finished training of a running stage.

    Args:
        stage: Its build folder is filled.
        section: The training's settings.
        architecture: Of the encoder.
        records: The numbers of every step.
    """

    stage: Stage
    section: PretrainParams | DistillParams
    architecture: TeacherConfig | StudentConfig
    records: Recorder

    def write(self) -> str:
        """Write everything but checkpoints beside the selected one; return the latter's digest."""
        selection = open_selection(self.stage.work, self.section)
        best, candidates = selection.best(), selection.table()
        if best is None:
            raise LineageError(
                "the candidates of the training, at least its last weights",
                found="none",
                where=str(selection.folder),
                mend="Remove the work folder that it lies in and train again.",
            )
        digest = self._write_checkpoint(self.stage.build, best, "selected")
        rows = table_of(candidates, self.records.read(), best.step)
        facts = compare(rows)
        write_json(self.stage.build / CHECKPOINTS, facts | {"candidates": rows})
        write_bytes(self.stage.build / "checkpoints.csv", _csv(rows).encode())
        self.records.write_curves(self.stage.build / "curves.csv")
        self._tell(best, facts)
        return digest

    def write_aside(self, name: str, step: int) -> None:
        """Write the candidate of a step into a folder of its own, whatever it scored."""
        selection = open_selection(self.stage.work, self.section)
        found = next(c for c in selection.table() if c.step == step)
        self._write_checkpoint(self.stage.build / name, found, name)

    def _write_checkpoint(self, folder: Path, chosen: Candidate, role: str) -> str:
        section, stage = self.section, self.stage
        weights = open_selection(stage.work, section).weights(chosen)
        provenance = {"stage": stage.name, "seed": section.seed, "steps": section.steps}
        provenance |= {"step": chosen.step, "role": role}
        config = checkpoint_config(
            self.architecture,
            resolve(section.normalisation, stage.parents["pack"]),
            ladder_step=section.ladder.step,
            ladder_largest=section.ladder.largest,
            provenance=provenance,
        )
        stage.counts["parameters"] = sum(tensor.numel() for tensor in weights.values())
        return write_checkpoint(folder, weights, config)

    def _tell(self, best: Candidate, facts: Mapping[str, Any]) -> None:
        section, stage = self.section, self.stage
        stage.counts |= {
            "steps": section.steps,
            "dpixels_seen": section.steps * section.batch_size,
            "selected_step": best.step,
        }
        known = ("n", "pearson", "spearman")
        numbers = {name: facts[name] for name in known if facts[name] is not None}
        metrics = {f"loss_against_score.{name}": value for name, value in numbers.items()}
        stage.tracker.log_metrics([{"selected_step": best.step, "step": section.steps} | metrics])
        say(f"{stage.name}: {facts['reason']}")


def table_of(
    candidates: Sequence[Candidate], records: Sequence[Mapping[str, float]], selected: int
) -> list[dict[str, Any]]:
    """Return a row a candidate: its step, the training loss of that step, its scores."""
    of_step = {int(record["step"]) + 1: record for record in records}
    rows: list[dict[str, Any]] = []
    for candidate in candidates:
        record = of_step.get(candidate.step, {})
        losses = {name: record[name] for name in _OF_STEP if name in record}
        numbers = {
            name: _short(value) for name, value in (losses | dict(candidate.numbers)).items()
        }
        here = {"step": candidate.step, "selected": int(candidate.step == selected)}
        rows.append(here | numbers)
    return rows


def compare(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the correlation of loss and score over the candidates, and who was selected.

    Returns:
        ``selected``, ``reason``, ``loss`` (the column that is compared: the held-out loss, or where
        nothing is held out the training loss), ``n``, ``pearson`` and ``spearman``; these are
        ``None`` for fewer than three scored candidates.
    """
    loss = HELD_OUT_LOSS if any(HELD_OUT_LOSS in row for row in rows) else "loss"
    pairs = [(row[loss], row[PROBE]) for row in rows if loss in row and PROBE in row]
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    best = next(row for row in rows if row["selected"])
    of = f"step {best['step']} of {len(rows)} candidates"
    reason = f"{of}, the last: nothing was probed"
    if PROBE in best:
        reason = f"{of}, by its downstream score {best[PROBE]:.4f}"
    found = {"pearson": pearson(x, y), "spearman": spearman(x, y)}
    shortened = {name: None if value is None else _short(value) for name, value in found.items()}
    facts = {"selected": best["step"], "reason": reason, "loss": loss, "n": len(pairs)}
    return facts | shortened


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
