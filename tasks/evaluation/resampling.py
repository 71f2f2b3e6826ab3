"""How sure a score is: the score of resamples of whole groups.

The one idea: pixels of one field are no independent evidence, so a resample draws groups. A group's
weight in a draw is the same for every task and model, so differences and means over tasks are drawn
jointly.

It deliberately fits nothing: what is resampled are predictions.
"""

from math import e, factorial

import numpy as np
import numpy.typing as npt

from models.hashing import hash_u64, uniform
from models.scores import clipped_r2
from tasks.evaluation.labels import Task

_FEWEST_CLASSES = 2
_POISSON = np.cumsum([1 / (e * factorial(k)) for k in range(18)])
"""Cumulative distribution of Poisson(1), as far as doubles resolve it."""

Array = npt.NDArray[np.float64]


def resampled_scores(
    task: Task, predicted: npt.NDArray[np.generic], *, seed: int, bootstrap: int
) -> Array:
    """Score ``bootstrap`` resamples of whole groups.

    Decision: a group's weight in a draw is Poisson(1), the limit of drawing with replacement, from
    the hash of draw and group. So it needs no other group: draw b is one resample of the ground of
    the whole archive, of which each task sees its part, and means over tasks are joint draws.

    Returns:
        (bootstrap,) scores. A class that a resample misses does not enter its mean; a resample
        whose target does not vary, or with less than two classes, counts with the score of all
        groups.
    """
    groups, member = np.unique(task.group, return_inverse=True)
    draw = uniform(hash_u64(seed, np.arange(bootstrap)[:, None], groups))
    weight = np.searchsorted(_POISSON, draw, side="right").astype(np.float64)
    if task.kind == "classification":
        return _resampled_accuracy(task, predicted, member, weight)
    return _resampled_r2(task.value, predicted.astype(np.float64), member, weight)


def _resampled_accuracy(
    task: Task,
    predicted: npt.NDArray[np.generic],
    member: npt.NDArray[np.int64],
    weight: Array,
) -> Array:
    num_classes = len(task.classes)
    cell = member * num_classes + task.stratum
    size = weight.shape[1] * num_classes
    total = np.bincount(cell, minlength=size).reshape(-1, num_classes)
    right = np.bincount(cell, task.value == predicted, size).reshape(-1, num_classes)
    totals, rights = weight @ total, weight @ right
    missed = (totals > 0).sum(axis=1) < _FEWEST_CLASSES
    totals[missed], rights[missed] = total.sum(axis=0), right.sum(axis=0)
    present = totals > 0
    recall = np.where(present, rights / np.maximum(totals, 1), 0.0)
    accuracy = recall.sum(axis=1) / present.sum(axis=1)
    return np.asarray((accuracy - 1 / num_classes) / (1 - 1 / num_classes))


def _resampled_r2(
    truth: Array, predicted: Array, member: npt.NDArray[np.int64], weight: Array
) -> Array:
    centred = truth - truth.mean()  # keeps the difference of squares below well conditioned
    terms = (np.ones_like(truth), centred, centred**2, (truth - predicted) ** 2)
    count, first, second, residual = (
        weight @ np.bincount(member, term, weight.shape[1]) for term in terms
    )
    total = second - first**2 / np.maximum(count, 1)
    varies = total > 0
    r2 = 1 - residual / np.where(varies, total, 1.0)
    return np.asarray(np.where(varies, np.maximum(r2, 0.0), clipped_r2(truth, predicted)))
