"""Fixed linear probes with leak-free folds and intervals; the only importer of scikit-learn.

The one idea: a probe is the same for every model and is never tuned (standardised features,
balanced multinomial logistic regression or ridge), so a score speaks of the features alone. Every
d-pixel is predicted once, by a probe that has not seen its group; the score is taken over all of
them, and its interval resamples groups, because pixels of one field are no independent evidence.

Source: TESSERA v2, section 3, "Downstream evaluation" (the two scores); the probes, folds and
intervals are decisions of ours.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # ships no types

from models.scores import balanced_accuracy, chance_adjusted_accuracy, clipped_r2
from tasks.evaluation.labels import Task
from tasks.evaluation.resampling import Array, resampled_scores
from tasks.settings.products import EvaluateParams

PROBE = "mean-fill, standardise, logistic C=0.1 balanced | ridge alpha=10; grouped k-fold /1"
"""Part of the suite's digest: other probes give scores that cannot be compared."""
_INTERVAL = (0.025, 0.975)
_ITERATIONS = 5000


@dataclass(frozen=True, slots=True)
class Score:
    """A task's score with its interval."""

    score: float
    """Chance-adjusted balanced accuracy, or R2 clipped at 0."""
    ci_low: float
    ci_high: float
    """95 % interval of ``score`` by bootstrap over groups."""
    raw: float
    """Balanced accuracy, or R2 without the clip."""
    draws: Array
    """(bootstrap,) the bootstrap's scores; draw b weighs a group alike in all models and tasks."""


def folds_of(task: Task, seed: int) -> npt.NDArray[np.int64]:
    """Assign each d-pixel a fold, whole groups together, classes or target quartiles balanced."""
    split = StratifiedGroupKFold(task.folds, shuffle=True, random_state=seed)
    fold = np.zeros(len(task.value), np.int64)
    for number, (_, test) in enumerate(split.split(task.row, task.stratum, task.group)):
        fold[test] = number
    return fold


def probe(
    features: npt.NDArray[np.float32],
    task: Task,
    fold: npt.NDArray[np.int64],
    section: EvaluateParams,
) -> Score:
    """Score features on a task.

    Args:
        features: (n, dim), NaN where a sensor was never observed.
        task: Its n d-pixels.
        fold: From ``folds_of``.
        section: Seed and size of the bootstrap, and the threads of the linear algebra, which are
            part of what fixes the last bits.
    """
    with threadpool_limits(section.threads):
        predicted = _predict_out_of_fold(features, task, fold)
    if task.kind == "classification":
        score = chance_adjusted_accuracy(task.value, predicted, len(task.classes))
        raw = balanced_accuracy(task.value, predicted)
    else:
        score, raw = clipped_r2(task.value, predicted), _r2(task.value, predicted)
    draws = resampled_scores(task, predicted, seed=section.seed, bootstrap=section.bootstrap)
    low, high = np.quantile(draws, _INTERVAL)
    return Score(score, float(low), float(high), raw, draws)


def _predict_out_of_fold(
    features: npt.NDArray[np.float32], task: Task, fold: npt.NDArray[np.int64]
) -> npt.NDArray[np.generic]:
    predicted = np.zeros_like(task.value)
    for number in range(task.folds):
        test = fold == number
        model = _model(task)
        model.fit(features[~test].astype(np.float64), task.value[~test])
        predicted[test] = model.predict(features[test].astype(np.float64))
    return predicted


def _model(task: Task) -> Pipeline:
    # keep_empty_features: a sensor that no training d-pixel has stays a constant column
    fill = SimpleImputer(keep_empty_features=True)
    if task.kind == "regression":
        return make_pipeline(fill, StandardScaler(), Ridge(alpha=10.0))
    logistic = LogisticRegression(C=0.1, class_weight="balanced", max_iter=_ITERATIONS)
    return make_pipeline(fill, StandardScaler(), logistic)


def _r2(truth: Array, predicted: npt.NDArray[np.generic]) -> float:
    residual = np.square(truth - predicted.astype(np.float64)).sum()
    return float(1 - residual / np.square(truth - truth.mean()).sum())
