"""Downstream scores: higher is better, 0 is chance, 1 is perfect.

The one idea: tasks with different numbers of classes, and regressions, can be averaged only after
the score of a guesser has been moved to zero. The composite is the plain mean of such scores, and
it, not the loss, selects checkpoints.

It deliberately has no intervals and no splits: those belong to the evaluation task.

Axis words: `n` test items.

Source: TESSERA v2, section 3, "Downstream evaluation".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


def balanced_accuracy(true: Shaped[np.ndarray, " n"], predicted: Shaped[np.ndarray, " n"]) -> float:
    """Return the mean over the classes present in `true` of the share found (recall).

    Raises:
        ValueError: for no items or unequal lengths.
    """
    _check(true, predicted)
    classes, label = np.unique(true, return_inverse=True)
    found = np.bincount(label, weights=true == predicted, minlength=len(classes))
    return float(np.mean(found / np.bincount(label)))


def chance_adjusted_accuracy(
    true: Shaped[np.ndarray, " n"], predicted: Shaped[np.ndarray, " n"], num_classes: int
) -> float:
    """Return (balanced accuracy - 1/K) / (1 - 1/K); negative when worse than guessing.

    Args:
        true: class of each item.
        predicted: predicted class of each item.
        num_classes: K of the task, not of this test set, so that a rare class missing from a small
            test set does not change what chance is.

    Raises:
        ValueError: for no items, unequal lengths, K below 2, or more than K classes in `true`.
    """
    accuracy = balanced_accuracy(true, predicted)
    present = len(np.unique(true))
    if num_classes < 2 or present > num_classes:
        raise ValueError(f"expected num_classes >= max(2, {present}), got {num_classes}")
    return (accuracy - 1 / num_classes) / (1 - 1 / num_classes)


def clipped_r2(true: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]) -> float:
    """Return max(0, R2), R2 = 1 - residual sum of squares / total sum of squares.

    Raises:
        ValueError: for no items, unequal lengths, a number that is not finite, or a truth without
            variance, for which R2 is undefined.
    """
    _check(true, predicted)
    truth = np.asarray(true, dtype=np.float64)
    guess = np.asarray(predicted, dtype=np.float64)
    if not (np.isfinite(truth).all() and np.isfinite(guess).all()):
        raise ValueError("expected finite truth and predictions, got NaN or infinity")
    total = np.square(truth - truth.mean()).sum()
    if total == 0:
        raise ValueError(f"expected a truth with variance, got {truth[0]} throughout")
    return max(0.0, float(1 - np.square(truth - guess).sum() / total))


def composite(scores: Mapping[str, float]) -> float:
    """Return the mean of the task scores, each task counting once.

    Args:
        scores: score by task name. A task that failed must be absent or raise earlier; it must
            never enter as 0.

    Raises:
        ValueError: for no task, or a score that is not finite, naming the task.
    """
    if not scores:
        raise ValueError("expected at least one task score, got none")
    for task, score in scores.items():
        if not np.isfinite(score):
            raise ValueError(f"expected a finite score for {task}, got {score}")
    return float(np.mean(list(scores.values())))


def _check(true: np.ndarray, predicted: np.ndarray) -> None:
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ValueError(
            f"expected truth and prediction of one length, got {true.shape} and {predicted.shape}"
        )
    if len(true) == 0:
        raise ValueError("expected at least one item, got none")
