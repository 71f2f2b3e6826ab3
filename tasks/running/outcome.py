"""The state of the pipeline in one screen: stages, scores, the gate's decision, where to look.

Reads what the stages wrote and nothing else, so the same text stands for a run that has just ended
and for one that had nothing to do.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ValidationFailed
from tasks.running.journal import Journal, Receipt
from tasks.running.reproduce import PROMOTE
from tasks.workspace import Workspace

_MARKS = {"failed": "x", "kept": "="}


Verdict = dict[str, Any]
"""Content of ``verdict.json``: success, checks, and failures with their address."""


Scores = dict[str, dict[str, float]]
"""``{model: {prefix: composite score}}``, higher is better."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    stages: Sequence[Receipt]
    """Receipts in the order in which the stages ended."""
    scores: Scores
    """Composite score by model and prefix; empty before the evaluation or without labels."""
    decision: str
    """The promotion gate's last word; empty when it was not asked."""
    report: str | None
    """Path of the report page, relative to the project; ``None`` before there is one."""

    @property
    def failure(self) -> Receipt | None:
        """The stage that failed, if one did."""
        return next((receipt for receipt in self.stages if receipt.status == "failed"), None)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome in plain JSON types."""
        return asdict(self) | {"stages": [asdict(receipt) for receipt in self.stages]}


def outcome(workspace: Workspace, receipts: Sequence[Receipt]) -> Outcome:
    """Collect the state of the pipeline after the stages of ``receipts``."""
    gate = [receipt.message for receipt in receipts if receipt.stage == PROMOTE]
    pages = sorted(workspace.output("report").glob("*.html"))
    return Outcome(
        stages=tuple(receipts),
        scores=scores(workspace),
        decision=gate[-1] if gate else "",
        report=pages[0].relative_to(workspace.root).as_posix() if pages else None,
    )


def scores(workspace: Workspace) -> Scores:
    """Return ``composite`` of ``artifacts/evaluate/scores.json``; empty before the evaluation."""
    content = _read(workspace.output("evaluate") / "scores.json")
    return dict(content["composite"]) if content else {}


def scores_of_run(journal: Journal) -> Scores:
    """Return the scores if a run has evaluated or found the evaluation up to date; else nothing."""
    receipt = _receipt(journal, "evaluate")
    return scores(journal.workspace) if receipt and receipt.status != "failed" else {}


def verdict_of_run(journal: Journal) -> Verdict | None:
    """Return the verdict that a run's validation reached; ``None`` if it reached none.

    A validation that refuses the archive has no output; its verdict is in the copy that the stage
    keeps. One that failed for another reason has no verdict, and the copy is of an earlier one.
    """
    receipt = _receipt(journal, "validate")
    if receipt is None:
        return None
    if receipt.status != "failed":
        return _read(journal.workspace.output("validate") / "verdict.json")
    if not receipt.message.startswith(ValidationFailed.__name__):
        return None
    return _read(journal.workspace.state / "validation" / "archive" / "verdict.json")


def mlflow_run(workspace: Workspace, stage: str) -> str | None:
    """Return the id of the MLflow run that made a stage's output, if it is known."""
    content = _read(workspace.artifacts / "provenance" / f"{stage}.json")
    return str(content["mlflow_run"]) if content and content.get("mlflow_run") else None


def render(found: Outcome) -> str:
    """Return the outcome as text for a terminal."""
    blocks = [_stage_lines(found.stages), _score_lines(found.scores)]
    look = [f"Gate:   {found.decision}"] if found.decision else []
    look += [f"Report: {found.report}"] if found.report else []
    look += ["Look:   `tessera up` serves the runs (Prefect) and the experiments (MLflow)"]
    return "\n\n".join("\n".join(block) for block in [*blocks, look] if block)


def _stage_lines(receipts: Sequence[Receipt]) -> list[str]:
    return [
        f"{_MARKS.get(r.status, '+')} {r.stage:<14} {r.status:<11} {r.seconds:8.1f} s"
        for r in receipts
    ]


def _score_lines(found: Scores) -> list[str]:
    """Lay the composite scores out as a table of models (rows) by prefixes (columns)."""
    prefixes = sorted({prefix for by_prefix in found.values() for prefix in by_prefix}, key=int)
    if not prefixes:
        return []
    lines = ["prefix  " + "".join(f"{prefix:>8}" for prefix in prefixes) + "   composite score"]
    for model, by_prefix in found.items():
        cells = "".join(f"{_cell(by_prefix.get(prefix)):>8}" for prefix in prefixes)
        lines.append(f"{model:<8}{cells}")
    return lines


def _cell(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _receipt(journal: Journal, stage: str) -> Receipt | None:
    return next((receipt for receipt in journal.receipts() if receipt.stage == stage), None)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content
