"""The rasters of a tile, region and labels: copied as they are, or cut to the tile's real size."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from tasks.files import write_bytes
from tasks.importing.arrays import refusal
from tasks.tiles import Array, read_label_raster, read_raster

_BLOCK_PX = 256

Size = tuple[int, int]


def copy_region(source: Path, target: Path, *, padded: Size, size: Size) -> bool:
    """Write a tile's region.

    Args:
        source: Region file: as large as the arrays, or as the tile.
        target: File to write.
        padded: Height and width of the arrays.
        size: Height and width of the tile.

    Returns:
        Whether it was cut.

    Raises:
        DataError: Not a raster, of another size, or with a region beyond the tile.
    """
    values = read_raster(source)
    region = values != 0
    if region.shape == size:
        write_bytes(target, source.read_bytes())
        return False
    if region.shape != padded:
        raise refusal(source.name, f"shape {size}", f"{region.shape}")
    if _beyond(region, size):
        raise refusal(source.name, f"a region within {size[0]} x {size[1]} px", "pixels beyond it")
    _write_cut(source, target, values[: size[0], : size[1]])
    return True


def copy_label(source: Path, target: Path, *, padded: Size, size: Size) -> str:
    """Write a label raster beside an archive's tiles, if it fits the tile.

    Returns:
        Empty if it was copied, else why it was not, or ``cut``.

    Raises:
        DataError: Not a raster.
    """
    values, known = read_label_raster(source)
    if values.shape == size:
        write_bytes(target, source.read_bytes())
        return ""
    if values.shape != padded:
        return f"left out: shape {values.shape}, not {size}"
    if _beyond(known & (values != 0), size):
        return f"left out: labels beyond the {size[0]} x {size[1]} px of the tile"
    # A mask of the file's own is not carried over: what it hides becomes the value of no label.
    nothing = np.nan if values.dtype.kind == "f" else 0
    shown = np.where(known, values, np.array(nothing, values.dtype))
    _write_cut(source, target, shown[: size[0], : size[1]])
    return "cut"


def _beyond(flags: Array, size: Size) -> bool:
    return bool(flags[size[0] :].any() or flags[:, size[1] :].any())


def _write_cut(source: Path, target: Path, values: Array) -> None:
    """Write the upper left part of a raster; its corner stays where it is on the Earth."""
    height, width = values.shape
    with rasterio.open(source, driver="GTiff") as raster:
        profile: dict[str, Any] = {
            "crs": raster.crs,
            "transform": raster.transform,
            "nodata": raster.nodata,
        }
    profile |= {"driver": "GTiff", "height": height, "width": width, "count": 1}
    profile |= {"dtype": values.dtype, "compress": "lzw", "tiled": True}
    profile |= {"blockxsize": _BLOCK_PX, "blockysize": _BLOCK_PX}
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as sink:
            sink.write(values, 1)
        write_bytes(target, memory.read())
