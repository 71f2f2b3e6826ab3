"""Features of the raw series that practitioners have always made, no network and no labels.

The one idea: an embedding is worth its compute only where it says more to the same probe than what a
few lines of arithmetic give. Two such sets are here, each by sensor and orbit direction: statistics
over the year that ignore when an observation was made, and harmonics that are nothing but when.
``tasks.evaluation.interpolation`` has the third, principal components of regular series;
``tasks.evaluation.composites`` has quantiles by season.

It deliberately has no settings: a baseline that can be tuned is no baseline. Where a sensor was
never seen its features are NaN, and the probe fills them with the mean of its training set.
"""

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels, Series

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Of the statistics, beside mean and standard deviation; 0 and 1 are minimum and maximum."""
CYCLES = (1, 2, 3)
"""Periods a year of the harmonics."""
YEAR_DAYS = 365.25
_PENALTY = 1.0  # of a squared coefficient, in squared residuals: the weight of two dates

Features = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]


def statistics_features(dpixels: DPixels) -> Features:
    """Return (n, 126): per sensor and band the mean, standard deviation and quantiles of the year.

    Raw units; quantiles are linear between order statistics.
    """
    return np.concatenate([_statistics(one) for one in _sensors(dpixels)], axis=1)


def harmonic_features(dpixels: DPixels) -> Features:
    """Return (n, 112): per sensor and band a level, cosine and sine by cycle, and what is left over.

    The coefficients minimise the squared residuals plus a small penalty on cosines and sines, which
    keeps fits to few dates finite and fades against many. The last number of a band is the root mean
    square of the residuals. Raw units.

    Decision: the penalty weighs as two dates do (a cosine's square is a half on average), for every
    sensor and number of dates; half a dozen dates then give a tame curve, and sixty lose 3 %.
    """
    return np.concatenate([_harmonics(one) for one in _sensors(dpixels)], axis=1)


def _sensors(dpixels: DPixels) -> tuple[Series, Series, Series]:
    return dpixels.s2, dpixels.s1_asc, dpixels.s1_desc


def _statistics(series: Series) -> Features:
    counts, num_bands = series.counts, series.values.shape[1]
    seen = np.flatnonzero(counts)
    out = np.full((len(series), num_bands, 2 + len(QUANTILES)), np.nan, np.float32)
    if not len(seen):
        return out.reshape(len(series), -1)
    first, count = series.offsets[:-1][seen], counts[seen]
    owner = np.repeat(np.arange(len(seen)), count)
    for band in range(num_bands):
        column = series.values[:, band].astype(np.float64)
        mean = np.add.reduceat(column, first) / count
        spread = np.add.reduceat(np.square(column - mean[owner]), first) / count
        out[seen, band, 0], out[seen, band, 1] = mean, np.sqrt(spread)
        ordered = column[np.lexsort((column, owner))]
        for number, quantile in enumerate(QUANTILES, start=2):
            out[seen, band, number] = _quantile(ordered, first, count, quantile)
    return out.reshape(len(series), -1)


def _quantile(
    ordered: Array, first: npt.NDArray[np.int64], count: npt.NDArray[np.int64], quantile: float
) -> Array:
    place = quantile * (count - 1)
    below = np.floor(place).astype(np.int64)
    low, high = ordered[first + below], ordered[first + np.minimum(below + 1, count - 1)]
    return np.asarray(low + (place - below) * (high - low))


def _harmonics(series: Series) -> Features:
    counts, num_bands = series.counts, series.values.shape[1]
    seen = np.flatnonzero(counts)
    design = _design(series.doy)
    terms = design.shape[1]
    out = np.full((len(series), num_bands, terms + 1), np.nan, np.float32)
    if not len(seen):
        return out.reshape(len(series), -1)
    first, count = series.offsets[:-1][seen], counts[seen]
    owner = np.repeat(np.arange(len(seen)), count)
    values = series.values.astype(np.float64)
    level = np.add.reduceat(values, first) / count[:, None]
    centred = values - level[owner]  # keeps the sums of products well conditioned
    penalty = np.diag([0.0] + [_PENALTY] * (terms - 1))
    gram = np.add.reduceat(design[:, :, None] * design[:, None, :], first) + penalty
    against = np.add.reduceat(design[:, :, None] * centred[:, None, :], first)
    solved = np.linalg.solve(gram, against)  # (seen, terms, bands)
    left = centred - np.einsum("ot,otb->ob", design, solved[owner])
    solved[:, 0] += level
    out[seen, :, :terms] = solved.transpose(0, 2, 1)
    out[seen, :, terms] = np.sqrt(np.add.reduceat(np.square(left), first) / count[:, None])
    return out.reshape(len(series), -1)


def _design(doy: npt.NDArray[np.integer]) -> Array:
    """Return (obs, 1 + 2 * cycles): one, then cosine and sine of each cycle."""
    turn = 2 * np.pi / YEAR_DAYS * doy.astype(np.float64)
    waves = [wave(cycle * turn) for cycle in CYCLES for wave in (np.cos, np.sin)]
    return np.stack([np.ones_like(turn), *waves], axis=1)
