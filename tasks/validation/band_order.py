"""Read the order of the bands off the numbers themselves.

A wrong band order fails silently in every network, so it must be found in the data. The one idea:
over land, reflectances of neighbouring wavelengths rise and fall together, and each band has its
typical level among the ten. So the rank correlations and levels of a tile are compared with
reference ones, once in the order given and once for orders obtained by exchanging bands. If another
order explains the tile better, and explains it well, the bands are not where they should be.
Deserts are like none of the reference landscapes in any order; there the order is not judged.

Bands that are twins (B08, B8A and B07) cannot be told apart that way; two other facts do. The
10 m bands carry more detail than the 20 m ones (``detail_of``), and reflectance over land rises
along the red edge (``neighbour_ratios``). Snow, cloud and water are left out by rules that do not
depend on the order. Undetectable and not claimed: which of two equal images is which.
"""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import S2_BANDS

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
Orders = npt.NDArray[np.int64]

SHARP_BANDS = ("B04", "B02", "B03", "B08")
"""Bands measured at 10 m; the other six are measured at 20 m and repeated or interpolated."""

# Mean log level of each band above the mean of all ten, and rank correlations between bands, over
# clear land: averages of a Belgian tile (2018), 800 Korean parcels and 2,300 sparse samples of the
# western United States. Two digits are enough; a wrong order is off by tenths.
_LEVELS = np.array([-0.48, -0.74, -0.53, 0.44, 0.48, -0.18, 0.27, 0.39, 0.35, 0.00])
_CORRELATIONS = np.array(
    [
        [1.00, 0.86, 0.91, 0.06, 0.01, 0.86, 0.12, 0.04, 0.65, 0.78],
        [0.86, 1.00, 0.94, 0.07, 0.05, 0.75, 0.16, 0.09, 0.48, 0.62],
        [0.91, 0.94, 1.00, 0.25, 0.21, 0.87, 0.33, 0.25, 0.60, 0.68],
        [0.06, 0.07, 0.25, 1.00, 0.93, 0.35, 0.92, 0.93, 0.33, 0.08],
        [0.01, 0.05, 0.21, 0.93, 1.00, 0.33, 0.97, 0.99, 0.34, 0.06],
        [0.86, 0.75, 0.87, 0.35, 0.33, 1.00, 0.44, 0.35, 0.76, 0.78],
        [0.12, 0.16, 0.33, 0.92, 0.97, 0.44, 1.00, 0.99, 0.38, 0.13],
        [0.04, 0.09, 0.25, 0.93, 0.99, 0.35, 0.99, 1.00, 0.32, 0.06],
        [0.65, 0.48, 0.60, 0.33, 0.34, 0.76, 0.38, 0.32, 1.00, 0.90],
        [0.78, 0.62, 0.68, 0.08, 0.06, 0.78, 0.13, 0.06, 0.90, 1.00],
    ]
)
_LEVEL_WEIGHT = 0.5  # levels differ more between landscapes than correlations do

_LAND_MIN_DN, _LAND_MAX_MEAN_DN = (
    1200,
    3500,
)  # water is darker in all bands, snow and cloud brighter
_MIN_LAND = 200  # observations; fewer give no stable correlations
_MAX_LAND = 20_000  # ranks of more cost time and change nothing

_MAX_MISFIT = (
    4.0  # of the best order: 1-3 over vegetated land, 10-15 in deserts, which no order fits
)
_MIN_GAIN = 0.02  # of one exchange: below it lie the twins, which other facts tell apart

_BY_WAVELENGTH = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

NEIGHBOURS: dict[str, tuple[str, float, float]] = {
    # Band: its neighbour in wavelength, and the bounds of the ratio of medians over land. The
    # bounds hold green crops, soils, forest, arid land and towns; a band with an offset, another
    # scale or zeros leaves them. Along the red edge the lower bound 1 is the fact that matters.
    "B04": ("B03", 0.45, 2.2),
    "B02": ("B03", 0.4, 1.4),
    "B03": ("B05", 0.25, 1.15),
    "B08": ("B8A", 0.7, 1.3),
    "B8A": ("B07", 1.0, 1.5),
    "B05": ("B04", 0.9, 5.0),
    "B06": ("B05", 1.0, 6.0),
    "B07": ("B06", 1.0, 1.8),
    "B11": ("B12", 0.9, 3.5),
    "B12": ("B11", 0.28, 1.1),
}
"""Physical relation of each band to another one, for clear land."""


def land_of(spectra: Floats) -> Floats:
    """Select the spectra of land, by rules that no exchange of bands can change.

    Args:
        spectra: (N, 10) DN of clear observations.

    Returns:
        (M, 10) with M at most 20,000, evenly taken; M = 0 where fewer than 200 are land.
    """
    bright = spectra.max(axis=1, initial=0) > _LAND_MIN_DN
    land: Floats = spectra[bright & (spectra.mean(axis=1) < _LAND_MAX_MEAN_DN)]
    if len(land) < _MIN_LAND:
        return land[:0]
    return land[:: -(-len(land) // _MAX_LAND)]


def best_order(land: Floats) -> tuple[tuple[str, ...], float]:
    """Find the order of bands that explains a tile best.

    Decision: the search starts at the given order, at all rotations and at the order by wavelength
    (the mistakes that are really made), and exchanges pairs while that helps.

    Args:
        land: (M, 10) DN over land.

    Returns:
        The band that each position looks like, and how much better that order is than the given
        one: squared differences of correlations plus half those of log levels. It is 0 if the
        given order is best, and also if even the best one does not fit (misfit of 4 or more):
        then the land is of a kind that the reference does not hold. Over land that it does hold,
        clean tiles stay at 0; exchanging two bands that are not twins gives more than 0.05, a
        rotation more than 5.
    """
    if not len(land):
        return S2_BANDS, 0.0
    identity = np.arange(len(S2_BANDS))
    levels = np.log(np.maximum(np.median(land, axis=0), 1.0))
    evidence = (levels - levels.mean(), _rank_correlations(land))
    wavelength = np.array([_BY_WAVELENGTH.index(band) for band in S2_BANDS])
    starts = [*(np.roll(identity, turn) for turn in identity), wavelength]
    found = np.array([_descend(start, *evidence) for start in starts])
    misfits = _misfits(found, *evidence)
    gain = float(_misfits(identity[None], *evidence)[0] - misfits.min())
    if gain < _MIN_GAIN or misfits.min() >= _MAX_MISFIT:
        return S2_BANDS, 0.0
    # An order says where each band is; the reader wants to know which band is at each position.
    band_at = np.argsort(found[misfits.argmin()])
    return tuple(S2_BANDS[band] for band in band_at), gain


def neighbour_ratios(land: Floats) -> dict[str, float]:
    """Return for each band the ratio of its median to its neighbour's, empty without land."""
    if not len(land):
        return {}
    median = dict(zip(S2_BANDS, np.maximum(np.median(land, axis=0), 1.0), strict=True))
    return {band: float(median[band] / median[other]) for band, (other, _, _) in NEIGHBOURS.items()}


def detail_of(values: Floats, clear: Flags) -> dict[str, float]:
    """Return how much detail the 10 m bands have beyond the 20 m ones.

    Detail is the mean difference between adjacent pixels of a row, divided by that over two pixels:
    0.5 or less where pixels are repeated or interpolated, 0.6 and more where they are measured.

    Args:
        values: (T, H, W, 10) DN.
        clear: (T, H, W), True where the observation is usable.

    Returns:
        For each of the 10 m bands its detail divided by the median of the 20 m bands'; empty where
        there are too few pairs or no texture at all.
    """
    one, two = _step(values, clear, 1), _step(values, clear, 2)
    if one is None or two is None or not (two > 0).all() or not (one > 0).all():
        return {}
    detail = dict(zip(S2_BANDS, one / two, strict=True))
    coarse = float(np.median([detail[band] for band in S2_BANDS if band not in SHARP_BANDS]))
    return {band: float(detail[band]) / coarse for band in SHARP_BANDS}


def _step(values: Floats, clear: Flags, lag: int) -> Floats | None:
    both = clear[:, :, lag:] & clear[:, :, :-lag]
    if both.sum() < _MIN_LAND:
        return None
    steps: Floats = np.abs(values[:, :, lag:] - values[:, :, :-lag])[both].mean(axis=0)
    return steps


def _rank_correlations(land: Floats) -> Floats:
    ranks = land.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable").astype(np.float64)
    return np.asarray(np.corrcoef(ranks.T))


def _misfits(orders: Orders, levels: Floats, correlations: Floats) -> Floats:
    """Compare (N, 10) orders, each the position that holds each band, with the reference."""
    picked = correlations[orders[:, :, None], orders[:, None, :]]
    correlation = ((picked - _CORRELATIONS) ** 2).sum(axis=(1, 2)) / 2
    misfits: Floats = correlation + _LEVEL_WEIGHT * ((levels[orders] - _LEVELS) ** 2).sum(axis=1)
    return misfits


def _descend(order: Orders, levels: Floats, correlations: Floats) -> Orders:
    """Exchange the pair that helps most, until none helps enough."""
    pairs = list(itertools.combinations(range(len(order)), 2))
    while True:
        tried = np.tile(order, (len(pairs) + 1, 1))  # the last one stays as it is
        for row, (one, other) in zip(tried, pairs, strict=False):
            row[[one, other]] = row[[other, one]]
        misfits = _misfits(tried, levels, correlations)
        best = misfits[:-1].argmin()
        if misfits[-1] - misfits[best] < _MIN_GAIN:
            return order
        order = tried[best]
