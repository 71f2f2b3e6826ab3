"""Scores of the control experiments by prefix, with intervals and paired differences.

The one idea: all are probed on the same d-pixels in the same folds, and draw b of the bootstrap
weighs a group of ground, and picks seeds of the trainings, alike for all. So a difference of two
controls is a difference of pairs, and its interval is as narrow as the data allow.

Decision: a draw resamples groups and, where there are several, seeds of the trainings. A control
without a training of its own has one value for all seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.hashing import hash_u64
from tasks.evaluation.labels import Task
from tasks.evaluation.probes import Score, folds_of, probe
from tasks.progress import track
from tasks.settings.products import EvaluateParams

REFERENCE = "equation 2"
"""The control that the others are compared with."""
_INTERVAL = (0.025, 0.975)
_PICK = 0x5049434B  # keeps the draw of seeds apart from that of groups

Array = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Control:
    """One way to make embeddings of several lengths."""

    name: str
    meaning: str
    runs: Sequence[Sequence[Features]]
    """For each seed the features (n, d) of each task."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A control at one prefix."""

    of_task: Mapping[str, float]
    """Mean over seeds, by task."""
    draws: Array
    """(seeds, bootstrap) mean over tasks."""
    of_seed: tuple[float, ...]
    """Mean over tasks, by seed."""

    @property
    def mean(self) -> float:
        """Composite score: mean over tasks and seeds."""
        return float(np.mean(self.of_seed))


def score_controls(
    controls: Sequence[Control], tasks: Sequence[Task], section: EvaluateParams
) -> list[dict[str, Any]]:
    """Probe every control at every prefix; return one row for each.

    Returns:
        ``control``, ``prefix``, ``score`` (composite: mean over tasks and seeds), ``low`` and
        ``high`` (95 %); ``retained``, its share of the control's own score at its longest prefix,
        and ``difference`` to equation 2 at the same prefix, each with ``_low`` and ``_high``;
        ``tasks`` and ``seeds``. A prefix that a control does not reach is left out.
    """
    folds = [folds_of(task, section.seed) for task in tasks]
    jobs = [
        (control, prefix)
        for control in controls
        for prefix in section.prefixes
        if prefix <= control.runs[0][0].shape[1]
    ]
    found = {
        (control.name, prefix): _scored(control, prefix, tasks, folds, section)
        for control, prefix in track(jobs, label="probe", total=len(jobs), unit="prefixes")
    }
    most = max(len(scored.of_seed) for scored in found.values())
    picks = _picks(section.seed, section.bootstrap, most)
    longest = dict(sorted(found))  # the last prefix of each control is its longest
    return [
        _row(scored, found[name, longest[name]], found.get((REFERENCE, prefix)), picks)
        | {"control": name, "prefix": prefix}
        for (name, prefix), scored in found.items()
    ]


def _row(
    scored: Scored, longest: Scored, reference: Scored | None, picks: npt.NDArray[np.int64]
) -> dict[str, Any]:
    own, full = _drawn(scored, picks), _drawn(longest, picks)
    row: dict[str, Any] = {"score": scored.mean, **_span("", own)}
    if longest.mean > 0 and full.min() > 0:
        row |= {"retained": scored.mean / longest.mean, **_span("retained_", own / full)}
    if reference is not None:
        row["difference"] = scored.mean - reference.mean
        row |= _span("difference_", own - _drawn(reference, picks))
    return row | {"tasks": dict(scored.of_task), "seeds": list(scored.of_seed)}


def _scored(
    control: Control,
    prefix: int,
    tasks: Sequence[Task],
    folds: Sequence[npt.NDArray[np.int64]],
    section: EvaluateParams,
) -> Scored:
    scores: list[list[Score]] = [
        [
            probe(features[:, :prefix], task, fold, section)
            for features, task, fold in zip(run, tasks, folds, strict=True)
        ]
        for run in control.runs
    ]
    values = np.array([[score.score for score in of_run] for of_run in scores])
    draws = np.array([np.mean([score.draws for score in of_run], axis=0) for of_run in scores])
    names = (task.name for task in tasks)
    of_task = dict(zip(names, values.mean(0).tolist(), strict=True))
    return Scored(of_task, draws, tuple(values.mean(1).tolist()))


def _picks(seed: int, bootstrap: int, seeds: int) -> npt.NDArray[np.int64]:
    """Return which seeds each draw is made of, (bootstrap, seeds), with replacement."""
    draw, place = np.arange(bootstrap)[:, None], np.arange(seeds)[None, :]
    return np.asarray(hash_u64(seed, _PICK, draw, place) % np.uint64(seeds)).astype(np.int64)


def _drawn(scored: Scored, picks: npt.NDArray[np.int64]) -> Array:
    """Return the score of each draw."""
    draw = np.arange(len(picks))[:, None]
    return np.asarray(scored.draws[picks % len(scored.draws), draw].mean(axis=1))


def _span(name: str, draws: Array) -> dict[str, float]:
    low, high = np.quantile(draws, _INTERVAL)
    return {f"{name}low": float(low), f"{name}high": float(high)}
