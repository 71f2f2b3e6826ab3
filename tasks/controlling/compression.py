"""Principal components of the teacher's embeddings, fitted on the whole corpus of d-pixels.

The one idea: PCA is the best linear code of each length for reconstruction, and it needs no student.
What a distilled prefix scores above it is what a network and a Matryoshka loss add.

It is fitted on the cached targets, which are the teacher's embeddings of every packed d-pixel, and
never on labelled ground.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.diagnostics import Moments
from tasks.streaming.corpus import Corpus

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Components:
    """An orthonormal basis of the embedding, the direction of the largest variance first."""

    mean: npt.NDArray[np.float64]
    basis: npt.NDArray[np.float64]
    """(d, d), a direction a column."""
    explained: npt.NDArray[np.float64]
    """(d,) share of the variance that the first k directions hold, at k - 1."""

    def transform(self, embeddings: Features) -> Features:
        """Return the coordinates of embeddings (n, d) along the directions."""
        return np.asarray((embeddings - self.mean) @ self.basis, np.float32)


def fit_components(targets: Corpus) -> Components:
    """Fit the components on all rows of a corpus of targets, block by block, in float64."""
    moments = Moments(targets.width)
    for number in range(targets.num_blocks):
        _, block = targets.targets(number)
        moments.add(torch.from_numpy(block.astype(np.float64)))
    variance, basis = np.linalg.eigh(moments.covariance.numpy())
    share = np.cumsum(variance[::-1].clip(0.0))
    return Components(moments.mean.numpy(), basis[:, ::-1].copy(), share / share[-1])
