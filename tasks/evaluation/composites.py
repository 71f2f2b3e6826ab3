"""The raw baseline: seasonal statistics of the observations themselves, no network.

The one idea: a reader should see what embeddings add over the features that practitioners have
always made, so the same probes run on quantiles per band and season ("composites").

It deliberately has no settings: a baseline that can be tuned is no baseline.
"""

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels, Series

QUANTILES = (0.1, 0.5, 0.9)
SEASON_STARTS = (1, 91, 182, 274)
"""First day of year of each season: quarters of the calendar year."""

Features = npt.NDArray[np.float32]


def composite_features(dpixels: DPixels) -> Features:
    """Return (n, 168): per sensor, season, band and quantile, raw units.

    A season without observations takes the quantile over the year; a sensor without observations
    is NaN, which the probe fills with the mean of its training set.
    """
    series = (dpixels.s2, dpixels.s1_asc, dpixels.s1_desc)
    return np.concatenate([_of_sensor(one) for one in series], axis=1)


def _of_sensor(series: Series) -> Features:
    owner = np.repeat(np.arange(len(series)), series.counts)
    season = np.searchsorted(SEASON_STARTS, series.doy, side="right") - 1
    yearly = _quantiles(series.values, owner, len(series))
    seasonal = _quantiles(
        series.values, owner * len(SEASON_STARTS) + season, len(series) * len(SEASON_STARTS)
    ).reshape(len(series), len(SEASON_STARTS), -1)
    filled = np.where(np.isnan(seasonal), yearly[:, None, :], seasonal)
    return filled.reshape(len(series), -1)


def _quantiles(
    values: npt.NDArray[np.generic], cell: npt.NDArray[np.int64], num_cells: int
) -> Features:
    """Return (num_cells, bands * quantiles), linear between order statistics; NaN if empty."""
    counts = np.bincount(cell, minlength=num_cells)
    starts = np.cumsum(counts) - counts
    out = np.full((num_cells, values.shape[1], len(QUANTILES)), np.nan, np.float32)
    filled = np.flatnonzero(counts)
    for band in range(values.shape[1]):
        column = values[:, band].astype(np.float64)
        ordered = column[np.lexsort((column, cell))]
        for number, quantile in enumerate(QUANTILES):
            place = quantile * (counts[filled] - 1)
            below = np.floor(place).astype(np.int64)
            above = np.minimum(below + 1, counts[filled] - 1)
            low, high = ordered[starts[filled] + below], ordered[starts[filled] + above]
            out[filled, band, number] = low + (place - below) * (high - low)
    return out.reshape(num_cells, -1)
