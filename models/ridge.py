"""Ridge regression out of fold, in closed form, for several prefix lengths of the features at once.

The one idea: a probe that is fitted hundreds of times in a training must cost nothing beside it. A
ridge regression is one small linear system; its matrix for a prefix is a corner of the matrix for
the whole, and classes are regressed on as indicators, of which the largest wins.

It deliberately chooses no penalty and no folds, and has no intervals.

Axis words: `n` items, `d` features, `out` columns of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64


def classify_out_of_fold(
    features: Float[np.ndarray, "n d"],
    label: Int64[np.ndarray, " n"],
    fold: Int64[np.ndarray, " n"],
    widths: Sequence[int],
    penalty: float,
) -> dict[int, Int64[np.ndarray, " n"]]:
    """Predict the class of each item by a ridge regression on the items of the other folds.

    All classes of a training set weigh alike, however many items they have.

    Args:
        features: standardised here, by the items that are trained on.
        label: classes 0..K-1.
        fold: the fold of each item.
        widths: lengths of the prefixes of the features, one result each.
        penalty: added to the diagonal of the (d, d) matrix of the training set's sums.

    Returns:
        Predicted classes by width.

    Raises:
        ValueError: if all items are in one fold, which leaves none to fit on.
    """
    targets = np.eye(int(label.max()) + 1)[label]
    found = _out_of_fold(features, targets, fold, widths, penalty, label=label)
    return {width: scores.argmax(axis=1) for width, scores in found.items()}


def regress_out_of_fold(
    features: Float[np.ndarray, "n d"],
    target: Float[np.ndarray, " n"],
    fold: Int64[np.ndarray, " n"],
    widths: Sequence[int],
    penalty: float,
) -> dict[int, Float64[np.ndarray, " n"]]:
    """Predict a quantity of each item; arguments and errors as of `classify_out_of_fold`."""
    found = _out_of_fold(features, target[:, None].astype(np.float64), fold, widths, penalty)
    return {width: predicted[:, 0] for width, predicted in found.items()}


def _out_of_fold(
    features: np.ndarray,
    targets: np.ndarray,
    fold: np.ndarray,
    widths: Sequence[int],
    penalty: float,
    *,
    label: np.ndarray | None = None,
) -> dict[int, Float64[np.ndarray, "n out"]]:
    out = {width: np.empty_like(targets) for width in widths}
    numbers = np.unique(fold)
    if len(numbers) < 2:
        raise ValueError(f"expected at least 2 folds, got {len(numbers)}")
    for number in numbers:
        test = fold == number
        train = ~test
        x = _standardised(features.astype(np.float64), train)
        weight = _weights(train, label)
        x_mean, y_mean = weight @ x[train], weight @ targets[train]
        centred = x[train] - x_mean
        weighted = (centred * (weight * train.sum())[:, None]).T
        gram, cross = weighted @ centred, weighted @ (targets[train] - y_mean)
        for width in widths:
            matrix = gram[:width, :width] + penalty * np.eye(width)
            slope = np.linalg.solve(matrix, cross[:width])
            out[width][test] = (x[test, :width] - x_mean[:width]) @ slope + y_mean
    return out


def _standardised(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    mean, std = features[train].mean(axis=0), features[train].std(axis=0)
    return np.asarray((features - mean) / np.where(std > 0, std, 1.0))


def _weights(train: np.ndarray, label: np.ndarray | None) -> Float64[np.ndarray, " m"]:
    """Return weights of the items that are trained on, sum 1: alike, or alike for each class."""
    if label is None:
        return np.full(int(train.sum()), 1.0 / train.sum())
    own = label[train]
    counts = np.bincount(own)
    return np.asarray(1.0 / (counts[own] * np.count_nonzero(counts)))
