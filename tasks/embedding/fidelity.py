"""How near a coarser precision comes to float32, measured on the user's own pixels."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from models.dpixel import DPixels
from models.encode import Encoder
from tasks.embedding.blocks import embed_blocks
from tasks.errors import DataError

FIDELITY_DPIXELS = 64
"""D-pixels of a tile that its fidelity is measured on."""
MIN_FIDELITY = 0.999
"""Mean cosine to float32 below which a precision is refused: it is broken, not coarse."""

Fidelity = dict[str, float]
"""Cosine to float32: ``mean`` and ``worst``; empty where no d-pixel was observed."""


class FidelityGauge:
    """Compares an encoder with the same one in float32, which is made when it is first needed."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @cached_property
    def _exact(self) -> Encoder:
        encoder = self._encoder
        return Encoder(encoder.model, encoder.normalisation, encoder.ladder)

    def measure(self, dpixels: DPixels) -> Fidelity:
        """Return the fidelity on these d-pixels, computed on one thread.

        Raises:
            DataError: The mean is below ``MIN_FIDELITY``.
        """
        ours, exact = (
            next(embed_blocks(encoder, [(np.arange(len(dpixels)), dpixels)], workers=1)).embedding
            for encoder in (self._encoder, self._exact)
        )
        cosine = cosine_of(ours, exact)
        if not len(cosine):
            return {}
        found = {"mean": round(float(cosine.mean()), 6), "worst": round(float(cosine.min()), 6)}
        if found["mean"] < MIN_FIDELITY:
            raise DataError(
                f"a mean cosine to float32 of at least {MIN_FIDELITY}",
                found=f"{found['mean']:.6f}",
                where=f"precision {self._encoder.precision}",
                mend="Use --precision float32.",
            )
        return found


def cosine_of(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows that both have an embedding."""
    observed = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)
    ours, theirs = ours[observed].astype(np.float64), theirs[observed].astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine: np.ndarray = (ours * theirs).sum(axis=1) / norms
    return cosine


def fidelity_text(found: Iterable[Fidelity]) -> str:
    """Return a line for people about one or more tiles."""
    measured = [one for one in found if one]
    if not measured:
        return "fidelity to float32: no observed d-pixel to measure it on"
    mean = sum(one["mean"] for one in measured) / len(measured)
    worst = min(one["worst"] for one in measured)
    return f"fidelity to float32: cosine {mean:.6f} mean, {worst:.6f} worst"
