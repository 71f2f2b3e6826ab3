"""Measure the Sentinel-1 arrays of one tile: how much is there, and whether codes are of the scale.

What must count every number goes date by date; levels are taken from evenly spaced rows of pixels.
It measures and does not judge: limits are in ``tasks.validation.checks``.
"""

from typing import Any

import numpy as np

from models.bands import S1_BANDS
from tasks.tiles import Array
from tasks.validation.band_order import Flags
from tasks.validation.optical import num_repeated, sampled_rows

Row = dict[str, Any]


def measure_radar(values: Array) -> tuple[Row, list[Row]]:
    """Measure the observations of one orbit.

    Args:
        values: (T, H, W, 2) codes of any numeric type, valid where VV or VH is not 0; T at least 1.

    Returns:
        The statistics of the orbit, and those of VV and VH. What cannot be measured is absent.
    """
    series, rows = _radar_whole(values)
    sample = values[:, sampled_rows(*values.shape[1:3])]
    codes = sample[_radar_valid(sample)].astype(np.float64)
    if not len(codes):
        return series, rows
    for band, row, column in zip(S1_BANDS, rows, codes.T, strict=True):
        # Over calm water VH is often below the lowest code, and clipped to 0.
        measured = column[column != 0] if (column != 0).any() else column
        levels = np.percentile(measured, (1, 50, 95, 99)).tolist()
        row.update(zip(("p01", "p50", "p95", "p99"), levels, strict=True))
        row["mean"], row["code_std"] = float(measured.mean()), float(measured.std())
        row[f"median_{band}"], row[f"high_{band}"] = levels[1], levels[2]
    series["vv_above_vh"] = float((codes[:, 0] > codes[:, 1]).mean())
    return series, rows


def _radar_whole(values: Array) -> tuple[Row, list[Row]]:
    """Count over every number of an orbit, one date at a time."""
    num_bands, num_valid, num_total = len(S1_BANDS), 0, values[..., 0].size
    nan, low, high = np.zeros(num_bands), np.full(num_bands, np.inf), np.full(num_bands, -np.inf)
    for image in values:
        valid = _radar_valid(image)
        nan += (~np.isfinite(image)).sum(axis=(0, 1))
        num_valid += int(valid.sum())
        if valid.any():
            low = np.minimum(low, image[valid].min(axis=0))
            high = np.maximum(high, image[valid].max(axis=0))
    rows: list[Row] = [{"nan_share": float(n) / num_total} for n in nan]
    if num_valid:
        for i, row in enumerate(rows):
            row.update(code_min=float(low[i]), code_max=float(high[i]))
    series: Row = {"observations": num_total, "valid_share": num_valid / num_total}
    return series | {"repeated_dates": num_repeated(values)}, rows


def _radar_valid(values: Array) -> Flags:
    finite = np.isfinite(values).all(axis=-1)
    return np.asarray(finite & (np.asarray(values) != 0).any(axis=-1))
