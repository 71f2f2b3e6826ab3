"""Rasters and labels at chosen places."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio.transform import Affine

from tasks.validation.places import GEOGRAPHIC, moved


def grid_file(path: Path, crs: str | None, west: float, north: float, size: int = 8) -> Path:
    """Write a raster of 10 m pixels with this upper left corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=size, width=size, count=1, dtype="uint8",
        crs=crs, transform=Affine(10, 0, west, 0, -10, north),
    ) as raster:  # fmt: skip
        raster.write(np.ones((size, size), np.uint8), 1)
    return path


def write_labels(path: Path, places: list[tuple[float, float, int]]) -> Path:
    """Write a table of longitude, latitude and year."""
    columns = zip(*places, strict=True) if places else [[], [], []]
    kinds = (pa.float64(), pa.float64(), pa.int32())
    arrays = [pa.array(list(c), kind) for c, kind in zip(columns, kinds, strict=True)]
    pq.write_table(pa.table(arrays, names=["lon", "lat", "year"]), path)
    return path


def place_of(crs: str, x: float, y: float) -> tuple[float, float]:
    """Return longitude and latitude of map coordinates."""
    longitude, latitude = moved(crs, np.array([x]), np.array([y]), GEOGRAPHIC)
    return float(longitude[0]), float(latitude[0])
