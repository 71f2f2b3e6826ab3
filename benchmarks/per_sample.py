"""The usual loader: a dataset that makes one sample at a time, and PyTorch's collating.

Written as one would without thinking of speed and without wasting any: the arrays are in memory, a
sample normalises only what it drew, and collating is PyTorch's own.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.bands import Normalisation, normalise
from models.buckets import resample_indices
from models.dpixel import DPixels, Series

Sample = dict[str, Tensor]


class TwoViews(Dataset[Sample]):
    """Two views of each d-pixel.

    Args:
        dpixels: In memory.
        length: Observations a view and sensor.
        normalisation: Statistics.
    """

    def __init__(self, dpixels: DPixels, length: int, normalisation: Normalisation) -> None:
        self._dpixels, self._length, self._n = dpixels, length, normalisation

    def __len__(self) -> int:
        return len(self._dpixels)

    def __getitem__(self, row: int) -> Sample:
        n, sample = self._n, {}
        s2, asc, desc = (
            _of_row(series, row)
            for series in (self._dpixels.s2, self._dpixels.s1_asc, self._dpixels.s1_desc)
        )
        for view in ("a", "b"):
            values, days = self._drawn(*s2)
            sample[f"s2_{view}"] = torch.from_numpy(normalise(values, n.s2_mean, n.s2_std))
            sample[f"s2_doy_{view}"] = torch.from_numpy(days)
            both = tuple(np.concatenate(pair) for pair in zip(asc, desc, strict=True))
            chosen = self._positions(len(both[1]))
            ascending = chosen < len(asc[1])
            values = np.where(
                ascending[:, None],
                normalise(both[0][chosen], n.s1_asc_mean, n.s1_asc_std),
                normalise(both[0][chosen], n.s1_desc_mean, n.s1_desc_std),
            )
            sample[f"s1_{view}"] = torch.from_numpy(values)
            sample[f"s1_doy_{view}"] = torch.from_numpy(both[1][chosen].astype(np.float32))
        return sample

    def _drawn(self, values: np.ndarray, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._positions(len(days))
        return values[chosen], days[chosen].astype(np.float32)

    def _positions(self, count: int) -> np.ndarray:
        if count <= self._length:
            return resample_indices(count, self._length)
        return np.sort(np.random.choice(count, self._length, replace=False))  # noqa: NPY002, RUF100


def per_sample_loader(
    dpixels: DPixels, length: int, normalisation: Normalisation, batch_size: int
) -> DataLoader[Sample]:
    """Return shuffled batches made in this process."""
    views = TwoViews(dpixels, length, normalisation)
    return DataLoader(views, batch_size=batch_size, shuffle=True, drop_last=True)


def _of_row(series: Series, row: int) -> tuple[np.ndarray, np.ndarray]:
    begin, end = series.offsets[row], series.offsets[row + 1]
    return series.values[begin:end], series.doy[begin:end]
