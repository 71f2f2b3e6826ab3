"""How near a coarser precision comes to float32, measured on the user's own pixels."""

import numpy as np

from models.dpixel import DPixels
from models.encode import Encoder
from tasks.errors import DataError

FIDELITY_DPIXELS = 256
"""D-pixels that a fidelity is measured on."""
MIN_FIDELITY = 0.999
"""Mean cosine to float32 below which a precision is refused: it is broken, not coarse."""

Fidelity = dict[str, float]
"""Cosine to float32: ``mean`` and ``worst``; empty where no d-pixel was observed."""


def measure_fidelity(encoder: Encoder, dpixels: DPixels) -> Fidelity:
    """Compare an encoder with the same one in float32.

    Raises:
        DataError: The mean is below ``MIN_FIDELITY``.
    """
    exact = Encoder(encoder.model, encoder.normalisation, encoder.ladder)
    cosine = cosine_of(encoder.encode(dpixels), exact.encode(dpixels))
    if not len(cosine):
        return {}
    found = {"mean": float(cosine.mean()), "worst": float(cosine.min())}
    if found["mean"] < MIN_FIDELITY:
        raise DataError(
            f"a mean cosine to float32 of at least {MIN_FIDELITY}",
            found=f"{found['mean']:.6f}",
            where=f"precision {encoder.precision}",
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


def fidelity_text(found: Fidelity) -> str:
    """Return a line for people."""
    if not found:
        return "fidelity to float32: no observed d-pixel to measure it on"
    return f"fidelity to float32: cosine {found['mean']:.6f} mean, {found['worst']:.6f} worst"
