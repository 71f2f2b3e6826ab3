"""From ragged observations to the tensors of one view.

What is hidden, and which observations a view holds, follows from each row's seed alone, so a row's
view is the same on whichever process it falls.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.dpixel import Series
from models.hashing import hash_u64
from models.views import draw_view, drop_modality

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""What a model reads: Sentinel-2 values and days, Sentinel-1 values and days."""

_S2, _S1, _HIDE = 2, 1, 3  # parts that keep the draws of one row independent


def view_inputs(
    s2: Series,
    s1: Series,
    length: int,
    seeds: npt.NDArray[np.uint64],
    *,
    dropout: float,
    device: torch.device,
) -> Inputs:
    """Draw one view of each d-pixel.

    Args:
        s2: Normalised Sentinel-2 series.
        s1: Normalised Sentinel-1 series, both orbits.
        length: Observations a sensor.
        seeds: One seed for each row and view.
        dropout: Chance of hiding Sentinel-2, and equally Sentinel-1.
        device: Where the model is.
    """
    hide_s2, hide_s1 = drop_modality(
        hash_u64(seeds, _HIDE), dropout, has_s2=s2.counts > 0, has_s1=s1.counts > 0
    )
    s2_values, s2_doy = _sensor(s2, length, hash_u64(seeds, _S2), hide_s2)
    s1_values, s1_doy = _sensor(s1, length, hash_u64(seeds, _S1), hide_s1)
    return s2_values.to(device), s2_doy.to(device), s1_values.to(device), s1_doy.to(device)


def _sensor(
    series: Series, length: int, seeds: npt.NDArray[np.uint64], hidden: npt.NDArray[np.bool_]
) -> tuple[Tensor, Tensor]:
    values, doys = draw_view(series, length, seeds)
    values[hidden], doys[hidden] = 0.0, 0.0
    return torch.from_numpy(values), torch.from_numpy(doys)
