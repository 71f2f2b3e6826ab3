"""From task scores to composites, a ranking, and the files in which both are read.

The one idea: a composite is the plain mean over all tasks of one suite; models are compared only on
the same tasks, and an interval stands beside every number. Numbers are rounded to six decimals on
writing, below what the evaluation can resolve, so that the last bits of a platform's linear algebra
do not become new bytes.

It deliberately computes no features and fits nothing.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.scores import composite
from tasks.evaluation.labels import Task
from tasks.evaluation.probes import Score

_DECIMALS = 6
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Standing:
    """The score of one model at one prefix on one task."""

    task: Task
    model: str
    dim: int
    score: Score
    n_train: int
    """D-pixels in the smallest training set of the folds."""

    def to_json(self) -> dict[str, Any]:
        """Return the row of ``scores.json``."""
        task = self.task
        return {
            "task": task.name,
            "type": task.kind,
            "model": self.model,
            "dim": self.dim,
            "score": _round(self.score.score),
            "ci_low": _round(self.score.ci_low),
            "ci_high": _round(self.score.ci_high),
            "raw": _round(self.score.raw),
            "n_train": self.n_train,
            "n_test": len(task.row),
            "groups": len(np.unique(task.group)),
            "folds": task.folds,
            "classes": list(task.classes),
            "left_out": task.left_out,
        }


@dataclass(slots=True)
class Leaderboard:
    """Scores of all models on one suite.

    Args:
        sizes: Number of parameters of each student.
        rank_prefix: Prefix length whose composite ranks them.
    """

    sizes: Mapping[str, int]
    rank_prefix: int
    rows: list[Standing] = field(default_factory=list)

    def add(self, row: Standing) -> None:
        """Enter a score."""
        self.rows.append(row)

    def composites(self) -> dict[str, dict[int, float]]:
        """Return the composite by model and prefix."""
        return {
            model: {
                dim: composite({row.task.name: row.score.score for row in rows})
                for dim, rows in by_dim.items()
            }
            for model, by_dim in self._grouped().items()
        }

    def intervals(self) -> dict[str, dict[int, tuple[float, float]]]:
        """Return 95 % intervals of the composites from the joint bootstrap of all tasks."""
        return {
            model: {dim: _interval(_draws(rows)) for dim, rows in by_dim.items()}
            for model, by_dim in self._grouped().items()
        }

    def best(self) -> tuple[str, str]:
        """Return the student to ship and why; equal scores go to the smaller one."""
        if not self.rows:
            largest = max(self.sizes, key=lambda name: (self.sizes[name], name))
            return largest, "nothing was scored: the largest student by parameter count"
        composites, prefix = self.composites(), self.rank_prefix
        ranked = sorted(
            self.sizes, key=lambda s: (-round(composites[s][prefix], _DECIMALS), self.sizes[s], s)
        )
        first = ranked[0]
        reason = f"highest composite at prefix {prefix}: {composites[first][prefix]:.4f}"
        if len(ranked) == 1:
            return first, reason
        second = ranked[1]
        grouped = self._grouped()
        low, high = _interval(_draws(grouped[first][prefix]) - _draws(grouped[second][prefix]))
        clear = "a clear lead" if low > 0 else "not a clear lead: the interval holds zero"
        gap = composites[first][prefix] - composites[second][prefix]
        return first, f"{reason}; ahead of {second} by {gap:.4f} [{low:.4f}, {high:.4f}], {clear}"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of ``scores.json``."""
        return {
            "tasks": [row.to_json() for row in self.rows],
            "composite": {
                model: {str(dim): _round(value) for dim, value in by_dim.items()}
                for model, by_dim in self.composites().items()
            },
            "composite_ci": {
                model: {str(dim): [_round(low), _round(high)] for dim, (low, high) in dims.items()}
                for model, dims in self.intervals().items()
            },
            "parameters": dict(self.sizes),
        }

    def flat_metrics(self) -> dict[str, Any]:
        """Return what ``dvc metrics show`` prints: composites by student and prefix."""
        return {
            f"composite_{model}_{dim}": _round(value)
            for model, by_dim in self.composites().items()
            for dim, value in by_dim.items()
        }

    def metric_rows(self) -> list[Mapping[str, float]]:
        """Return MLflow metrics, the prefix length as the step."""
        rows: list[Mapping[str, float]] = [
            {f"score.{row.model}.{row.task.name}": row.score.score, "step": row.dim}
            for row in self.rows
        ]
        return rows + [
            {f"composite.{model}": value, "step": dim}
            for model, by_dim in self.composites().items()
            for dim, value in by_dim.items()
        ]

    def prefix_csv(self) -> str:
        """Return the table behind ``dvc plots``: one line a model and prefix."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["model", "prefix", "composite", "ci_low", "ci_high"])
        intervals = self.intervals()
        for model, by_dim in self.composites().items():
            for dim, value in by_dim.items():
                writer.writerow([model, dim, *map(_round, (value, *intervals[model][dim]))])
        return out.getvalue()

    def to_markdown(self, content: Mapping[str, Any]) -> str:
        """Return a leaderboard for people."""
        lines = ["# Leaderboard", "", f"Best student: **{content['best']}** ({content['reason']})."]
        lines += [f"Not scored: {item['name']}: {item['reason']}." for item in content["skipped"]]
        if not self.rows:
            return "\n".join([*lines, "", "Nothing was scored.", ""])
        tasks = list(dict.fromkeys(row.task.name for row in self.rows))
        lines += ["", "| model | dim | composite | " + " | ".join(tasks) + " |"]
        lines += ["|---|---:|---:|" + "---:|" * len(tasks)]
        composites, intervals = self.composites(), self.intervals()
        for model, by_dim in self._grouped().items():
            for dim, rows in by_dim.items():
                scores = {row.task.name: _cell(row.score) for row in rows}
                total = f"{composites[model][dim]:.3f} {_span(*intervals[model][dim])}"
                cells = " | ".join(scores[task] for task in tasks)
                lines.append(f"| {model} | {dim} | {total} | {cells} |")
        groups = content["groups"]
        ground = (
            f"Suite {content['suite'][:12]}, 95 % intervals. {groups['evaluated']} groups of labelled"
            f" ground; {groups['left_to_probe']} others selected the checkpoints and are left out."
        )
        return "\n".join([*lines, "", ground, ""])

    def _grouped(self) -> dict[str, dict[int, list[Standing]]]:
        grouped: dict[str, dict[int, list[Standing]]] = {}
        for row in self.rows:
            grouped.setdefault(row.model, {}).setdefault(row.dim, []).append(row)
        return grouped


def _draws(rows: list[Standing]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(np.mean([row.score.draws for row in rows], axis=0))


def _interval(draws: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    low, high = np.quantile(draws, _INTERVAL)
    return float(low), float(high)


def _cell(score: Score) -> str:
    return f"{score.score:.3f} {_span(score.ci_low, score.ci_high)}"


def _span(low: float, high: float) -> str:
    return f"[{low:.2f}, {high:.2f}]"


def _round(value: float) -> float:
    return round(float(value), _DECIMALS) + 0.0  # + 0.0: minus zero would be other bytes
