"""Regular series and their principal components: the linear code of a year, learned without labels.

The one idea: principal components are what a linear encoder can learn from the same unlabelled
d-pixels, so at equal length they are the nearest rival of an embedding. Observations are interpolated
to one date every ten days, by band, sensor and orbit direction; each date of each band is scaled to
unit variance; the components are found from sums over the pretraining d-pixels.

It deliberately has no settings but the length. A d-pixel without a sensor takes the mean series of
the pretraining d-pixels in its place, which is the usual filling and adds nothing to any component; a
sensor that none of them has is no part of the components.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels, Series, offsets_of

GRID_DOY = np.arange(5, 366, 10)
"""The regular dates: 5, 15, ..., 365."""
_DAYS = 512  # of a row on the common axis; more than a year has

Features = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]


def interpolated_series(dpixels: DPixels) -> Features:
    """Return (n, 518): per sensor and band the value on each regular date, raw units.

    Linear between neighbouring observations, constant before the first and after the last; NaN
    where the sensor never saw the d-pixel.
    """
    sensors = (dpixels.s2, dpixels.s1_asc, dpixels.s1_desc)
    return np.concatenate([_interpolated(one) for one in sensors], axis=1)


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of regular series."""

    mean: Array
    """(columns,) of the d-pixels that have the sensor."""
    std: Array
    """(columns,) likewise; 1 where a column does not vary."""
    basis: Array
    """(columns, columns) orthonormal, largest variance first."""
    variance: Array
    """(columns,) variance along each, falling."""

    def project(self, series: Features, length: int) -> Features:
        """Return (n, length): the leading coordinates.

        Args:
            series: (n, columns) of ``interpolated_series``.
            length: 1 to the number of columns.

        Raises:
            ValueError: There are not so many components.
        """
        if not 1 <= length <= len(self.mean):
            raise ValueError(f"expected 1 to {len(self.mean)} components, got {length}")
        scaled = np.nan_to_num((series - self.mean) / self.std, nan=0.0)
        return np.asarray(scaled @ self.basis[:, :length], np.float32)


def fit_components(blocks: Iterable[Features]) -> Components:
    """Find the principal components of regular series, block by block.

    Args:
        blocks: Series of the pretraining d-pixels, (n, columns), in any number of blocks; read
            twice, so no iterator.

    Raises:
        ValueError: There is no block.
    """
    mean, std = _scale(blocks)
    size = len(mean)
    products, rows = np.zeros((size, size)), 0
    for block in blocks:
        scaled = np.nan_to_num((block - mean) / std, nan=0.0)
        products += scaled.T @ scaled
        rows += len(block)
    variance, basis = np.linalg.eigh(products / rows)
    order = np.argsort(-variance, kind="stable")
    return Components(mean, std, _signed(basis[:, order]), np.maximum(variance[order], 0.0))


def _scale(blocks: Iterable[Features]) -> tuple[Array, Array]:
    """Return mean and standard deviation of each column over the rows that have it."""
    totals = [(np.isfinite(b).sum(0), np.nansum(b, 0, np.float64)) for b in blocks]
    if not totals:
        raise ValueError("expected at least one block of series, got none")
    count = np.maximum(np.sum([number for number, _ in totals], axis=0), 1)
    mean = np.sum([total for _, total in totals], axis=0) / count
    squares = np.sum([np.nansum(np.square(block - mean), 0) for block in blocks], axis=0)
    std = np.sqrt(squares / count)
    return mean, np.where(std > 0, std, 1.0)


def _signed(basis: Array) -> Array:
    """Turn each component so that its largest coordinate is positive: a solver leaves that open."""
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0)
    return basis * np.where(largest < 0, -1.0, 1.0)


def _interpolated(series: Series) -> Features:
    num_bands = series.values.shape[1]
    seen = np.flatnonzero(series.counts)
    out = np.full((len(series), num_bands, len(GRID_DOY)), np.nan, np.float32)
    if len(seen):
        axis, source = _common_axis(series, seen)
        wanted = (np.arange(len(seen))[:, None] * _DAYS + GRID_DOY).ravel()
        for band in range(num_bands):
            column = series.values[:, band].astype(np.float64)[source]
            out[seen, band] = np.interp(wanted, axis, column).reshape(len(seen), -1)
    return out.reshape(len(series), -1)


def _common_axis(
    series: Series, seen: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lay all rows on one axis, each between copies of its first and last observation.

    Returns:
        Positions, rising, and the observation that stands at each.
    """
    first, count = series.offsets[:-1][seen], series.counts[seen]
    padded = offsets_of(count + 2)
    row = np.repeat(np.arange(len(seen)), count + 2)
    place = np.arange(padded[-1]) - padded[:-1][row] - 1
    source = first[row] + np.clip(place, 0, count[row] - 1)
    day = series.doy.astype(np.int64)[source]
    day = np.where(place < 0, 0, np.where(place == count[row], _DAYS - 1, day))
    return row * _DAYS + day, source
