"""How closely two quantities go together: Pearson on their values, Spearman on their ranks.

Axis words: `n` pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

FEWEST = 3
"""Pairs below which a correlation says nothing: two always lie on a line."""


def pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    """Return the linear correlation, -1 to 1; None for fewer than 3 pairs or a constant.

    Raises:
        ValueError: if there are not as many of each.
    """
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"expected as many of each, got {x.shape} and {y.shape}")
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    a, b = x - x.mean(), y - y.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    """Return the correlation of the ranks, equal values sharing their mean rank; see `pearson`."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[which])
