"""How far apart two distributions are, and how far chance alone would put them.

The one idea: every figure comes with its noise, the size that two random samples of one and the same
world exceed once in twenty times. A figure below its noise says nothing; one far above is real, but
may still be small. Noise counts independent units. Pixels of one place resemble each other, so a
corpus has fewer of them than d-pixels, and the noise given is the least that there can be.
"""

from math import erf, log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

_ONE_IN_TWENTY = 1.9600  # two-sided quantile of the normal distribution
_ONE_IN_TWENTY_ABOVE = 1.6449  # one-sided
_KS_ONE_IN_TWENTY = 1.3581  # Kolmogorov's distribution, Smirnov (1948)
_HALF_A_COUNT = 0.5

Numbers = npt.NDArray[Any]


def ks_of_counts(counts: Numbers, reference: Numbers) -> float:
    """Return the Kolmogorov-Smirnov distance of two histograms over the same bins, 0..1.

    It sees nothing that happens inside a bin, so it is at most the distance of the samples.

    Args:
        counts: (bins,) of the one, not all 0.
        reference: (bins,) of the other, likewise.
    """
    here, there = (np.cumsum(c, dtype=np.float64) / c.sum() for c in (counts, reference))
    return float(np.abs(here - there).max())


def ks_of_samples(values: Numbers, reference: Numbers) -> float:
    """Return the two-sample Kolmogorov-Smirnov distance, 0..1, of numbers without NaN."""
    places = np.concatenate([values, reference])
    here, there = (
        np.searchsorted(np.sort(sample), places, side="right") / len(sample)
        for sample in (values, reference)
    )
    return float(np.abs(here - there).max())


def ks_of_normals(shift: float, ratio: float) -> float:
    """Return the Kolmogorov-Smirnov distance of N(shift, ratio**2) from N(0, 1), in closed form.

    The distance is largest where the densities cross: x**2 = ((x - shift) / ratio)**2 + 2 ln(ratio).

    Args:
        shift: Difference of the means in standard deviations of the reference.
        ratio: Ratio of the standard deviations, above 0.
    """
    a, b, c = 1 - 1 / ratio**2, 2 * shift / ratio**2, -((shift / ratio) ** 2) - 2 * log(ratio)
    roots = [shift / 2] if abs(a) < 1e-9 else [float(r.real) for r in np.roots([a, b, c])]
    return max(abs(_phi(x) - _phi((x - shift) / ratio)) for x in roots)


def _phi(x: float) -> float:
    return 0.5 * (1 + erf(x / sqrt(2)))


def stability_index(counts: Numbers, reference: Numbers) -> float:
    """Return the population stability index: sum of (p - q) ln(p / q) over the bins, 0 or more.

    Decision: half a count is added to every bin that either has, so that a bin which one of them
    lacks gives a large number instead of an infinite one. By custom below 0.1 is little, above 0.25
    much.
    """
    used = (counts > 0) | (reference > 0)
    here, there = (c[used].astype(np.float64) + _HALF_A_COUNT for c in (counts, reference))
    here, there = here / here.sum(), there / there.sum()
    return float(((here - there) * np.log(here / there)).sum())


def ks_noise(num: int, num_reference: int) -> float:
    """Return the distance that two samples of these sizes exceed by chance once in twenty times."""
    return min(1.0, _KS_ONE_IN_TWENTY * _scatter(num, num_reference))


def shift_noise(num: int, num_reference: int) -> float:
    """Return the shift of the mean, in standard deviations, that chance exceeds likewise."""
    return _ONE_IN_TWENTY * _scatter(num, num_reference)


def ratio_noise(num: int, num_reference: int) -> float:
    """Return the distance from 1 of the ratio of standard deviations, likewise, if normal."""
    return _ONE_IN_TWENTY * _scatter(num, num_reference) / sqrt(2)


def stability_noise(num: int, num_reference: int, bins: int) -> float:
    """Return the stability index likewise: by chance it is chi-squared of bins - 1 degrees, scaled."""
    degrees = max(1, bins - 1)
    chance = degrees + _ONE_IN_TWENTY_ABOVE * sqrt(2 * degrees)
    return chance * _scatter(num, num_reference) ** 2


def _scatter(num: int, num_reference: int) -> float:
    return sqrt(1 / num + 1 / num_reference)
