"""Choose and order d-pixels by copying whole rows: a shuffle moves bytes, not observations.

The one idea: all observations of a d-pixel lie together, so to Arrow a row is one string of bytes,
and taking strings is one copy each. ``DPixels.take`` gathers observation by observation, which
costs several times more where rows are thick.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.dpixel import DPixels, Series


def take_dpixels(dpixels: DPixels, rows: npt.NDArray[np.int64]) -> DPixels:
    """Return the chosen d-pixels, in the chosen order, as ``DPixels.take`` does."""
    order = pa.array(rows)
    sensors = (_take(series, order) for series in (dpixels.s2, dpixels.s1_asc, dpixels.s1_desc))
    return DPixels(dpixels.pixel_id[rows], *sensors)


def _take(series: Series, order: pa.Array) -> Series:
    values, ends = _take_cells(series.values, series.offsets, order)
    doy, _ = _take_cells(series.doy, series.offsets, order)
    return Series(values, doy, ends)


def _take_cells(
    flat: npt.NDArray[Any], offsets: npt.NDArray[np.int64], order: pa.Array
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return the chosen rows of ``flat`` end to end, and their offsets."""
    width = flat.itemsize * int(np.prod(flat.shape[1:]))
    buffers = [None, pa.py_buffer(offsets * width), pa.py_buffer(np.ascontiguousarray(flat))]
    cells = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
    _, ends, taken = cells.take(order).buffers()
    places = np.frombuffer(ends, np.int64, len(order) + 1) // width
    count = int(places[-1]) * width // flat.itemsize
    chosen = np.frombuffer(taken, flat.dtype, count) if count else np.zeros(0, flat.dtype)
    return chosen.reshape(-1, *flat.shape[1:]), places
