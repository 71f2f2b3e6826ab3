"""The figures of a comparison of two corpora, row by row: sensors as a whole, then their bands.

Packed corpora are compared by all observations. Archives are compared by their tiles: a tile is one
number a band, its mean, so what is compared is how tiles are spread, and a tile counts once whatever
its size. Only the first have seasons; both have noise by the units that were counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.bands import S1_BANDS, S2_BANDS
from tasks.validation.checks import KEYS
from tasks.validation.corpora import SENSORS, SensorStatistics, Statistics
from tasks.validation.distances import (
    ks_noise,
    ks_of_counts,
    ks_of_normals,
    ks_of_samples,
    ratio_noise,
    shift_noise,
    stability_index,
    stability_noise,
)

_LEAST_STD = 0.5  # stored numbers are whole, so nothing narrower can be told
_LEAST_SHARE = 1e-6
_TABLE_BINS = 10  # of the reference's tiles, equally many in each
_SHARES = (0.0, 0.05, 0.5, 0.95, 1.0)  # below the quantiles that statistics give
_TOLERANCE = 0.1  # of a number of observations, within which two are alike
_VALID = ("clear_share", "valid_share")  # of the optical images, of the radar images

Row = dict[str, Any]
Nums = tuple[int, int]
Numbers = npt.NDArray[Any]


def compare_statistics(corpus: Statistics, reference: Statistics) -> Iterator[Row]:
    """Compare two packed corpora; the columns are listed in ``tasks.validation.drift.compare``."""
    nums = (corpus.dpixels, reference.dpixels)
    for name in SENSORS:
        here, there = corpus.sensors.get(name), reference.sensors.get(name)
        row = {"sensor": name} | _presence(_seen(here), _seen(there))
        if here is None or there is None or not (_seen(here) and _seen(there)):
            yield row
            continue
        yield row | _sensor_row(here, there, nums)
        for band in S2_BANDS if name == "s2" else S1_BANDS:
            one, other = here.bands[band], there.bands[band]
            counts = (np.array(one.histogram), np.array(other.histogram))
            levels = _levels((one.mean, one.std), (other.mean, other.std), nums)
            figures = levels | {"ks": ks_of_counts(*counts)} | _stability(*counts, nums)
            yield {"sensor": name, "band": band} | figures


def _seen(sensor: SensorStatistics | None) -> bool:
    return sensor is not None and sensor.observations > 0


def _presence(here: bool, there: bool) -> Row:
    places = {(True, False): "not in the reference", (False, True): "only in the reference"}
    return {"absent": int(here != there), "text": places.get((here, there), "")}


def _sensor_row(here: SensorStatistics, there: SensorStatistics, nums: Nums) -> Row:
    one, other = here.observations_per_dpixel, there.observations_per_dpixel
    return {
        "season_ks": ks_of_counts(np.array(here.days), np.array(there.days)),
        "season_ks_noise": ks_noise(*nums),
        "thickness_ks": _ks_of_knots(one.knots, other.knots),
        "thickness_ks_noise": ks_noise(*nums),
        "thickness_ratio": one.mean / max(other.mean, _LEAST_STD),
    }


def _ks_of_knots(knots: Sequence[float], reference: Sequence[float]) -> float:
    """Return the distance of two distributions of which five quantiles are known.

    Decision: between the quantiles they are taken as uniform, and each is spread by a tenth of
    itself, half a count at least, to both sides. Nearly all d-pixels of a place may have the same
    number of observations; without that, one more or less would be the largest distance there is.
    """
    turn = 2 * np.asarray(_SHARES) - 1
    here, there = (
        np.asarray(k) + turn * np.maximum(_TOLERANCE * np.asarray(k), _LEAST_STD)
        for k in (knots, reference)
    )
    places = np.concatenate([here, there])
    shares = (np.interp(places, k, _SHARES, left=0.0, right=1.0) for k in (here, there))
    return float(np.abs(np.subtract(*shares)).max())


def compare_tables(
    corpus: Mapping[str, pd.DataFrame], reference: Mapping[str, pd.DataFrame]
) -> Iterator[Row]:
    """Compare two archives by how the means of their tiles are spread over the tiles."""
    for sensor in sorted({*corpus["series"]["sensor"], *reference["series"]["sensor"]}):
        here, there = (_values(c["series"], sensor, "", *_VALID) for c in (corpus, reference))
        row = {"sensor": sensor} | _presence(bool(len(here)), bool(len(there)))
        if len(here) and len(there):
            nums = (len(here), len(there))
            row |= {
                "thickness_ks": ks_of_samples(here, there),
                "thickness_ks_noise": ks_noise(*nums),
                "thickness_ratio": float(here.mean() / max(there.mean(), _LEAST_SHARE)),
            }
        yield row
    for sensor, band in dict.fromkeys(zip(*(corpus["bands"][k] for k in KEYS[1:]), strict=True)):
        here, there = (_values(c["bands"], sensor, band, "mean") for c in (corpus, reference))
        if len(here) and len(there):
            nums = (len(here), len(there))
            levels = _levels((here.mean(), here.std()), (there.mean(), there.std()), nums)
            edges = np.quantile(there, np.linspace(0, 1, _TABLE_BINS + 1)[1:-1])
            one, other = (
                np.bincount(np.searchsorted(edges, v), minlength=_TABLE_BINS) for v in (here, there)
            )
            figures = levels | {"ks": ks_of_samples(here, there)} | _stability(one, other, nums)
            yield {"sensor": sensor, "band": band} | figures


def _values(table: pd.DataFrame, sensor: str, band: str, *columns: str) -> Numbers:
    """Return the numbers of one sensor and band, one a tile, from the first column that has some."""
    rows = table[(table["sensor"] == sensor) & (table["band"] == band)]
    for column in columns:
        if column in rows and rows[column].notna().any():
            return rows[column].dropna().to_numpy(np.float64)
    return np.zeros(0)


def _levels(here: tuple[float, float], there: tuple[float, float], nums: Nums) -> Row:
    """Compare means and standard deviations."""
    (mean, std), (usual, spread) = here, there
    shift = (mean - usual) / max(spread, _LEAST_STD)
    ratio = max(std, _LEAST_STD) / max(spread, _LEAST_STD)
    return {
        "mean_shift": shift,
        "mean_shift_noise": shift_noise(*nums),
        "std_ratio": ratio,
        "std_ratio_noise": ratio_noise(*nums),
        "ks_moments": ks_of_normals(shift, ratio),
        "ks_moments_noise": ks_noise(*nums),
        "ks_noise": ks_noise(*nums),
        "text": f"{mean:.4g} +- {std:.4g}, in the reference {usual:.4g} +- {spread:.4g}",
    }


def _stability(here: Numbers, there: Numbers, nums: Nums) -> Row:
    bins = int(((here > 0) | (there > 0)).sum())
    return {"psi": stability_index(here, there), "psi_noise": stability_noise(*nums, bins)}
