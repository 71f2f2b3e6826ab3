"""The arrays of somebody else's tile folder: what may differ from the layout, and how it is undone.

The one idea: any array of whole numbers that the layout's type can hold is accepted, whatever its
width, byte order or memory order, because nothing is lost on the way. Numbers that do not fit are
never clipped. Arrays are memory-mapped and copied date by date.

It deliberately does not judge what the numbers mean; ``tasks.embedding.plausibility`` does.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import numpy.typing as npt

from models.bands import S1_BANDS, S2_BANDS
from tasks.errors import DataError
from tasks.files import release_pages
from tasks.tiles import Array

_DAY_LIMITS = (1, 366)


@dataclass(frozen=True, slots=True)
class Kind:
    """What the layout says of one array."""

    dtype: str
    """Type that it is written with."""
    axes: tuple[int | None, ...]
    """Length of each axis after time; None where the tile decides."""
    limits: tuple[int, int]
    """Smallest and largest number."""


KINDS = {
    "bands.npy": Kind("<u2", (None, None, len(S2_BANDS)), (0, 65535)),
    "masks.npy": Kind("|u1", (None, None), (0, 1)),
    "doys.npy": Kind("<u2", (), _DAY_LIMITS),
    "sar_ascending.npy": Kind("<i2", (None, None, len(S1_BANDS)), (0, 32767)),
    "sar_ascending_doy.npy": Kind("<i2", (), _DAY_LIMITS),
    "sar_descending.npy": Kind("<i2", (None, None, len(S1_BANDS)), (0, 32767)),
    "sar_descending_doy.npy": Kind("<i2", (), _DAY_LIMITS),
}
"""The arrays of a tile folder by file name."""


def open_array(path: Path) -> Array:
    """Map an array of whole numbers or truth values, in any width and memory order.

    Raises:
        DataError: There is none, it cannot be read, or it holds other things.
    """
    try:
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TokenError) as error:
        found = str(error) if path.exists() else "no such file"
        raise refusal(path.name, "a readable array file", found) from error
    if array.dtype.kind not in "biu":
        raise refusal(path.name, "whole numbers", f"{array.dtype}")
    return array


def check_shape(name: str, array: Array, num_dates: int | None, grid: tuple[int, int]) -> None:
    """Refuse an array that has not the axes of the layout.

    Args:
        name: File name, a key of ``KINDS``.
        array: As opened.
        num_dates: Dates of its series; None where this array decides.
        grid: Height and width that it must have.

    Raises:
        DataError: With the shape that it should have.
    """
    axes = [grid[i] if axis is None else axis for i, axis in enumerate(KINDS[name].axes)]
    expected = (len(array) if num_dates is None else num_dates, *axes)
    if array.shape != expected:
        text = ", ".join(["T" if num_dates is None else str(num_dates), *map(str, axes)])
        raise refusal(name, f"shape ({text})", f"{array.shape}")


def changes_of(name: str, array: Array) -> list[str]:
    """Say what of an array's form is changed when it is written."""
    found = []
    if array.dtype != np.dtype(KINDS[name].dtype):
        found.append(f"{name}: {array.dtype.name} to {np.dtype(KINDS[name].dtype).name}")
    if array.ndim > 1 and not array.flags.c_contiguous:
        found.append(f"{name}: Fortran order to C order")
    return found


def order_of(name: str, days: Array) -> npt.NDArray[np.int64]:
    """Return the dates of a series in rising order; equal days keep their order.

    Raises:
        DataError: A day is not in 1..366.
    """
    _require_limits(name, np.asarray(days))
    return np.argsort(np.asarray(days), kind="stable").astype(np.int64)


def write_array(
    path: Path, array: Array, *, order: Sequence[int] | npt.NDArray[np.int64], size: tuple[int, int]
) -> None:
    """Write an array as the layout wants it, date by date.

    Args:
        path: File to write, named as in ``KINDS``.
        array: (T, ...) as opened.
        order: Which date comes when.
        size: Height and width to keep of an image.

    Raises:
        DataError: A number is outside the layout's limits, or what would be cut off is not 0.
    """
    dtype = np.dtype(KINDS[path.name].dtype)
    height, width = size
    is_image = array.ndim > 1
    shape = (len(order), height, width, *array.shape[3:]) if is_image else (len(order),)
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for date in order:
            image = np.asarray(array[date])
            _require_limits(path.name, image)
            if is_image:
                _require_padding(path.name, image, size)
                image = image[:height, :width]
            stream.write(image.astype(dtype, order="C").tobytes())
            release_pages(array)
        stream.flush()
        os.fsync(stream.fileno())


def _require_limits(name: str, numbers: Array) -> None:
    low, high = KINDS[name].limits
    if numbers.size and (numbers.min() < low or numbers.max() > high):
        found = f"{numbers.min()} to {numbers.max()}"
        raise refusal(name, f"numbers in {low}..{high}", found)


def _require_padding(name: str, image: Array, size: tuple[int, int]) -> None:
    height, width = size
    num_padded = np.count_nonzero(image[height:]) + np.count_nonzero(image[:height, width:])
    if num_padded:
        expected = f"only zeros beyond the {height} x {width} px that the folder's name gives"
        raise refusal(name, expected, f"{num_padded} other numbers")


def refusal(name: str, expected: str, found: str) -> DataError:
    """Return the error that a file of the source cannot be imported."""
    return DataError(expected, found=found, where=name, mend="Mend it in the source.")
