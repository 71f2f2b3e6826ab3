"""Tiles to measure with: the public layout, realistic counts of observations, made-up values.

Speed does not depend on values, only on how many observations each pixel has. Optical validity
follows a smooth cloud field (about 5 to 83 of 100 dates, 37 on average, neighbours alike); radar
passes follow zones of swath overlap (30, 60, 90 or 120 of 120 passes).
"""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter

OPTICAL_DATES = 100
PASSES = 60  # of each orbit direction


def write_tile(
    folder: Path, size_px: int, *, seed: int = 1, dates: int = OPTICAL_DATES, passes: int = PASSES
) -> None:
    """Write a square tile folder; band by band in time, so that memory holds one image."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    clear_share = np.clip(0.37 + 0.16 * _smooth(rng, size_px, 24), 0.03, 0.85)
    shape = (dates, size_px, size_px)
    bands = _new(folder / "bands.npy", (*shape, 10), np.uint16)
    clear = _new(folder / "masks.npy", shape, np.uint8)
    for date in range(dates):
        sky = _smooth(rng, size_px, 12)
        clear[date] = sky < np.quantile(sky, 0.5) + 2.0 * (clear_share - 0.5)
        bands[date] = rng.integers(200, 6000, (size_px, size_px, 10), dtype=np.uint16)
    np.save(folder / "doys.npy", np.linspace(1, 365, dates).astype(np.uint16))
    column = np.arange(size_px) / size_px
    for orbit, swath in (("ascending", column < 0.75), ("descending", column > 0.3)):
        radar = _new(folder / f"sar_{orbit}.npy", (passes, size_px, size_px, 2), np.int16)
        for index in range(passes):
            image = rng.integers(2000, 8000, (size_px, size_px, 2), dtype=np.int16)
            radar[index] = image * (swath | (index % 2 == 0))[None, :, None]
        np.save(folder / f"sar_{orbit}_doy.npy", np.linspace(1, 364, passes).astype(np.int16))


def write_region(path: Path, region: np.ndarray) -> None:
    """Write which pixels belong to a tile."""
    height, width = region.shape
    shape = {"height": height, "width": width, "count": 1, "dtype": "uint8"}
    place = {"crs": "EPSG:32631", "transform": from_origin(500_000, 5_700_000, 10, 10)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as sink:
        sink.write(region, 1)


def _new(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    array: np.ndarray = np.lib.format.open_memmap(path, "w+", dtype, shape)
    return array


def _smooth(rng: np.random.Generator, size_px: int, scale_px: int) -> np.ndarray:
    field = gaussian_filter(rng.standard_normal((size_px, size_px)), scale_px, mode="wrap")
    standard: np.ndarray = (field - field.mean()) / field.std()
    return standard
