"""Tile folders in the public d-pixel layout, read strictly.

An archive is a folder of tile folders, wherever they lie below it; a folder of four digits between
archive and tile is the year. Labels, if any, are GeoTIFFs in ``labels/``, named by the tile's path and the
label: ``labels/2021/0_0_40_40_land_cover.tif``. Nothing missing is replaced: a tile without its
validity file or its days is refused, while an absent orbit is legal.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series, offsets_of
from tasks.errors import DataError
from tasks.files import release_pages

OPTICAL = ("bands.npy", "masks.npy", "doys.npy")
RADAR = ("sar_ascending", "sar_descending")
REGION = "roi.tiff"
SOURCE = "source.json"
"""Optional record in a tile folder, or above it, of the archive that the data come from."""
_ARRAYS = (*OPTICAL, *(f"{orbit}.npy" for orbit in RADAR))
_YEAR = re.compile(r"^\d{4}$")
_LAST_DAY = 366
_SPARSE = 8  # pixels farther apart than this, on average, are read one by one

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TileRef:
    """Where a tile folder lies and what it is called."""

    key: str
    """Path below the tiles' root, e.g. ``2021/0_0_40_40``: unique in the archive."""
    folder: Path
    """The tile folder."""

    @property
    def year(self) -> int:
        """The year that a folder between archive and tile names; 0 where none does."""
        years = [part for part in self.key.split("/")[:-1] if _YEAR.match(part)]
        return int(years[-1]) if years else 0

    @property
    def name(self) -> str:
        """The tile folder's own name, the same in every year."""
        return self.key.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Tile:
    """The arrays of one tile folder, memory-mapped. Axes: time, row, column, band."""

    ref: TileRef
    bands: Array
    """uint16 (T, H, W, 10): Sentinel-2 digital numbers, reflectance times 10,000."""
    valid: Array
    """uint8 (T, H, W): 1 is a clear observation."""
    doys: Array
    """uint16 (T,): days of year, rising."""
    radar: dict[str, tuple[Array, Array]]
    """Per orbit present: int16 (T, H, W, 2) coded decibels and (T,) days of year."""
    region: Array
    """bool (H, W): pixels that belong to the tile."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.region.shape[0]), int(self.region.shape[1])


def tiles_root(archive: Path) -> Path:
    """Return the folder below which tile folders are searched: ``tiles/`` if there is one."""
    return archive / "tiles" if (archive / "tiles").is_dir() else archive


def find_tiles(archive: Path, *, least: int = 1) -> list[TileRef]:
    """List every tile folder of an archive, sorted by key.

    Args:
        archive: Folder with tile folders anywhere below it.
        least: Fewest tiles; 0 where point tables may be all there is.

    Raises:
        DataError: The archive is not a folder, holds too few tile folders, is one, or has one tile
            inside another.
    """
    root = tiles_root(archive)
    found = _folders_of_tiles(root) if root.is_dir() else set()
    if len(found) < least or not archive.is_dir():
        raise DataError(
            "tile folders (bands.npy, masks.npy, doys.npy, sar_*.npy); to train, tables in points/ do",
            found="no tile folder" if archive.is_dir() else "no such folder",
            where=str(archive),
            mend="Make the sample with `tessera sample`, or set ingest.archive (make full DATA=...).",
        )
    _refuse_nested(root, found)
    refs = (TileRef(folder.relative_to(root).as_posix(), folder) for folder in found)
    return sorted(refs, key=lambda ref: ref.key)


def _folders_of_tiles(root: Path) -> set[Path]:
    """Return the folders below ``root`` that hold arrays; hidden ones are somebody's unfinished work."""
    paths = (path for name in _ARRAYS for path in root.rglob(name))
    return {
        path.parent
        for path in paths
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    }


def _refuse_nested(root: Path, folders: set[Path]) -> None:
    """Refuse an archive that is itself a tile, and a tile inside another: outputs would collide."""
    for folder in sorted(folders):
        if folder == root or folders & set(folder.parents):
            outer = folder if folder == root else next(iter(folders & set(folder.parents)))
            raise DataError(
                "tile folders below the archive's folder, none inside another",
                found="tile files",
                where=str(outer),
                mend="Name the folder above the tile, or move the tile files out of it.",
            )


def find_labels(archive: Path, ref: TileRef) -> dict[str, Path]:
    """Return the label rasters of a tile by label name; empty where there are none.

    A raster belongs to the tile with the longest name that it starts with: ``a_b_crop.tif`` is
    ``crop`` of the tile ``a_b``, if there is one, and not ``b_crop`` of the tile ``a``.
    """
    stem = archive / "labels" / ref.key
    prefix = f"{stem.name}_"
    if not stem.parent.is_dir():
        return {}
    beside = ref.folder.parent.iterdir()
    longer = tuple(
        f"{path.name}_"
        for path in beside
        if path.name.startswith(prefix) and any((path / name).exists() for name in _ARRAYS)
    )
    rasters = sorted(path for path in stem.parent.iterdir() if path.suffix == ".tif")
    return {
        path.stem.removeprefix(prefix): path
        for path in rasters
        if path.name.startswith(prefix) and not path.name.startswith(longer)
    }


def read_tile(ref: TileRef) -> Tile:
    """Open a tile folder and check every array against the layout.

    Raises:
        DataError: A file is missing or unreadable, or a shape or type breaks the layout.
    """
    bands, valid, doys = (_load(ref, name) for name in OPTICAL)
    _require(ref, "bands.npy", bands, "uint16 (T, H, W, 10)", _is(bands, "u2", 4, len(S2_BANDS)))
    _require(ref, "masks.npy", valid, f"(T, H, W) = {bands.shape[:3]}", _is_flag(valid, bands))
    _require(ref, "doys.npy", doys, f"{len(bands)} integers", _are_days(doys, len(bands)))
    radar = {orbit: pair for orbit in RADAR if (pair := _read_orbit(ref, orbit, bands))}
    return Tile(ref, bands, valid, doys, radar, _read_region(ref, bands.shape[1:3]))


def _read_orbit(ref: TileRef, orbit: str, bands: Array) -> tuple[Array, Array] | None:
    files = [f"{orbit}.npy", f"{orbit}_doy.npy"]
    if not any((ref.folder / name).exists() for name in files):
        return None
    values, doys = (_load(ref, name) for name in files)
    right = _is(values, "i2", 4, len(S1_BANDS)) and values.shape[1:3] == bands.shape[1:3]
    expected = f"int16 (T, {bands.shape[1]}, {bands.shape[2]}, {len(S1_BANDS)})"
    _require(ref, files[0], values, expected, right or values.shape[:1] == (0,))
    _require(ref, files[1], doys, f"{len(values)} integers", _are_days(doys, len(values)))
    return (values, doys) if len(values) else None


def _read_region(ref: TileRef, shape: tuple[int, ...]) -> Array:
    path = ref.folder / REGION
    if not path.exists():
        return np.ones(shape, dtype=bool)
    region: Array = read_raster(path) != 0
    _require(ref, REGION, region, f"shape {tuple(shape)}", region.shape == tuple(shape))
    return region


def read_raster(path: Path) -> Array:
    """Read the only band of a GeoTIFF.

    Raises:
        DataError: The file is not a raster that can be read.
    """
    try:
        with rasterio.open(path, driver="GTiff") as source:
            return np.asarray(source.read(1))
    except rasterio.errors.RasterioError as error:
        raise DataError(
            "a readable GeoTIFF", found=str(error), where=str(path), mend="Replace the file."
        ) from error


def read_label_raster(path: Path) -> tuple[Array, Array]:
    """Read the only band of a GeoTIFF and which of its pixels hold a value.

    Returns:
        Values (H, W), and bool (H, W) that is False at nodata and where the file's own mask or
        alpha band hides the pixel.

    Raises:
        DataError: The file is not a raster that can be read.
    """
    try:
        with rasterio.open(path, driver="GTiff") as source:
            band = source.read(1, masked=True)
    except rasterio.errors.RasterioError as error:
        raise DataError(
            "a readable GeoTIFF", found=str(error), where=str(path), mend="Replace the file."
        ) from error
    return np.asarray(band.data), ~np.ma.getmaskarray(band)


def _load(ref: TileRef, name: str) -> Array:
    path = ref.folder / name
    try:
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TokenError) as error:
        raise DataError(  # the last three: a damaged header
            f"a readable {name}",
            found=str(error) if path.exists() else "no such file",
            where=f"tile {ref.key}",
            mend=f"Restore {path}; an absent validity file or day list is never guessed.",
        ) from error
    if not array.flags.c_contiguous:  # every block would copy the whole file
        raise DataError(
            f"{name} in C order",
            found="Fortran order",
            where=f"tile {ref.key}",
            mend=f"Write {path} again with numpy.ascontiguousarray.",
        )
    return array


def _require(ref: TileRef, name: str, array: Array, expected: str, holds: bool) -> None:
    if not holds:
        raise DataError(
            f"{name} as {expected}",
            found=f"{array.dtype} {array.shape}",
            where=f"tile {ref.key}",
            mend="Write the tile again in the public d-pixel layout.",
        )


def _is(array: Array, dtype: str, ndim: int, num_bands: int) -> bool:
    return array.dtype == np.dtype(dtype) and array.ndim == ndim and array.shape[-1] == num_bands


def _is_flag(valid: Array, bands: Array) -> bool:
    return bool(valid.dtype.kind in "bu" and valid.shape == bands.shape[:3])


def _are_days(doys: Array, count: int) -> bool:
    return bool(doys.dtype.kind in "iu" and doys.shape == (count,))


def dpixels_of(tile: Tile, rows: Array, first_id: int) -> DPixels:
    """Collect the valid observations of chosen pixels.

    Args:
        tile: An open tile.
        rows: Flat pixel indices (row-major), rising.
        first_id: ``pixel_id`` of the tile's pixel 0.

    Returns:
        One d-pixel per index, its observations in time order. Optical validity is the tile's
        validity file; a radar observation is valid where VV or VH is not 0, on raw values.

    Raises:
        DataError: A day of year is not in 1..366.
    """
    clear = _pixels(tile.valid, rows) != 0
    optical = _ragged(tile.bands, rows, clear, _days(tile, "doys.npy", tile.doys))
    orbits = [_orbit_series(tile, orbit, rows) for orbit in RADAR]
    return DPixels(np.uint64(first_id) + rows.astype(np.uint64), optical, *orbits)


def release(tile: Tile) -> None:
    """Give the pages of a tile's files back to the system."""
    radar = (array for pair in tile.radar.values() for array in pair)
    release_pages(tile.bands, tile.valid, tile.doys, *radar)


def _orbit_series(tile: Tile, orbit: str, rows: Array) -> Series:
    if orbit not in tile.radar:
        empty = np.zeros((0, len(S1_BANDS)), np.int16)
        return Series(empty, np.zeros(0, np.int16), np.zeros(len(rows) + 1, np.int64))
    values, doys = tile.radar[orbit]
    both = values.view(np.uint32)[..., 0]  # VV and VH as one number: 0 where both are
    valid = _pixels(both, rows) != 0
    return _ragged(values, rows, valid, _days(tile, f"{orbit}_doy.npy", doys))


def _days(tile: Tile, name: str, doys: Array) -> npt.NDArray[np.int16]:
    days = np.asarray(doys)
    wrong = days[(days < 1) | (days > _LAST_DAY)]
    if len(wrong):
        raise DataError(
            f"days of year in 1..{_LAST_DAY}",
            found=", ".join(map(str, wrong[:5])),
            where=f"{name} of tile {tile.ref.key}",
            mend=f"Mend {tile.ref.folder / name}.",
        )
    return days.astype(np.int16)


def _pixels(values: Array, rows: Array) -> Array:
    """Return (T, n) of chosen pixels of (T, H, W), reading little more than those."""
    flat = values.reshape(len(values), values.shape[1] * values.shape[2])
    if not len(rows):
        return flat[:, :0]
    first, last = int(rows[0]), int(rows[-1]) + 1
    if last - first == len(rows):
        return np.asarray(flat[:, first:last])
    if last - first > _SPARSE * len(rows):
        return np.asarray(flat[:, rows])
    return np.asarray(flat[:, first:last])[:, rows - first]


def _ragged(values: Array, rows: Array, valid: Array, days: npt.NDArray[np.int16]) -> Series:
    """Gather the valid (T, n) observations of chosen pixels of (T, H, W, B), pixel by pixel.

    Only they are read; every step works on all of them at once, in whole numbers.
    """
    by_pixel = np.ascontiguousarray(valid.T)
    counts = np.count_nonzero(by_pixel, axis=1)
    time = np.flatnonzero(by_pixel) - np.repeat(np.arange(len(rows)) * len(days), counts)
    pixels = values.shape[1] * values.shape[2]
    place = time * pixels + np.repeat(rows, counts)
    flat = values.reshape(len(values) * pixels, values.shape[-1])
    return Series(np.take(flat, place, axis=0), np.take(days, time), offsets_of(counts))
