"""The time series of chosen pixels, from a tile, a point table or shards, ready to be drawn.

A tile still has its cloudy observations; tables and shards hold clear ones alone, so there a gap is
all that is left of a cloud.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels
from tasks.errors import ParamsError
from tasks.georeference import read_georeference
from tasks.inspection.tile import tile_ref
from tasks.tiles import RADAR, REGION, Tile, read_tile

MOST_PIXELS = 6
_DEFAULT_PLACES = (0.25, 0.5, 0.75)

Orbit = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class PixelSeries:
    """One pixel over the year."""

    title: str
    days: npt.NDArray[Any]
    """(T,) days of year of the optical observations, rising."""
    bands: npt.NDArray[Any]
    """(T, 10) digital numbers."""
    clear: npt.NDArray[np.bool_]
    """(T,) False where a cloud, or nothing, was seen."""
    radar: dict[str, Orbit]
    """Days (t,) and codes (t, 2) by ``ascending`` and ``descending``; only what was observed."""


def series_of_tile(folder: Path, pixels: Sequence[tuple[int, int]]) -> list[PixelSeries]:
    """Read chosen pixels of a tile; without any, three that are spread over its region.

    Raises:
        DataError: The tile breaks the layout.
        ParamsError: A pixel lies outside the tile, or there are too many.
    """
    tile = read_tile(tile_ref(folder))
    chosen = list(pixels) or _spread_pixels(tile)
    _require_few(len(chosen), "--pixels")
    height, width = tile.shape
    for row, column in chosen:
        if not (0 <= row < height and 0 <= column < width):
            raise ParamsError(
                f"a row in 0..{height - 1} and a column in 0..{width - 1}",
                found=f"{row},{column}",
                where="--pixels",
                mend="Rows are counted from the top, columns from the left.",
            )
    return [_pixel_of_tile(tile, row, column) for row, column in chosen]


def _spread_pixels(tile: Tile) -> list[tuple[int, int]]:
    """Return the pixels of the region that are nearest to three places on its diagonal."""
    inside = np.argwhere(tile.region)
    if not len(inside):
        inside = np.argwhere(np.ones(tile.shape, bool))
    low, high = inside.min(axis=0), inside.max(axis=0)
    places = [low + share * (high - low) for share in _DEFAULT_PLACES]
    nearest = [inside[np.abs(inside - place).sum(axis=1).argmin()] for place in places]
    return sorted({(int(row), int(column)) for row, column in nearest})


def _pixel_of_tile(tile: Tile, row: int, column: int) -> PixelSeries:
    bands = np.asarray(tile.bands[:, row, column])
    clear = np.asarray(tile.valid[:, row, column]) != 0
    imaged = clear | bands.any(axis=1)  # beyond a swath there are zeros, which are no observation
    radar = {}
    for orbit in RADAR:
        if orbit in tile.radar:
            values, days = tile.radar[orbit]
            codes = np.asarray(values[:, row, column])
            seen = (codes != 0).any(axis=1)
            radar[orbit.removeprefix("sar_")] = (np.asarray(days)[seen], codes[seen])
    title = f"row {row}, column {column}{_place(tile, row, column)}"
    return PixelSeries(title, np.asarray(tile.doys)[imaged], bands[imaged], clear[imaged], radar)


def _place(tile: Tile, row: int, column: int) -> str:
    """Say where the middle of a pixel lies, in units of the raster's reference system."""
    path = tile.ref.folder / REGION
    grid = read_georeference(path) if path.exists() else None
    if grid is None or grid["crs"] is None:
        return ""
    a, b, c, d, e, f = grid["transform"]
    x, y = (k * (column + 0.5) + m * (row + 0.5) + n for k, m, n in ((a, b, c), (d, e, f)))
    return f"\n{x:,.0f} E {y:,.0f} N ({grid['crs']})"


def choose_rows(rows: Sequence[int], num_rows: int) -> list[int]:
    """Return the rows to draw: those that are wished for, or three spread over all.

    Raises:
        ParamsError: There is no such row, or there are too many.
    """
    spread = sorted({int(share * (num_rows - 1)) for share in _DEFAULT_PLACES})
    chosen = list(dict.fromkeys(rows)) or spread
    _require_few(len(chosen), "--rows")
    for row in chosen:
        if not 0 <= row < num_rows:
            raise ParamsError(
                f"a row in 0..{num_rows - 1}",
                found=str(row),
                where="--rows",
                mend="Choose another.",
            )
    return chosen


def series_of_rows(
    blocks: Iterable[tuple[int, DPixels]], chosen: Sequence[int], name: Callable[[int, int], str]
) -> list[PixelSeries]:
    """Read chosen rows of blocks of d-pixels.

    Args:
        blocks: Number of the first row of a block, and the block; at least those that are needed.
        chosen: From ``choose_rows``.
        name: Says what a row is, by its number and its ``pixel_id``.
    """
    found: dict[int, PixelSeries] = {}
    for start, dpixels in blocks:
        for row in chosen:
            if start <= row < start + len(dpixels):
                dpixel = dpixels.take(np.array([row - start]))
                title = f"row {row}\n{name(row, int(dpixel.pixel_id[0]))}"
                found[row] = _pixel_of_row(dpixel, title)
        if len(found) == len(chosen):
            break
    return [found[row] for row in chosen]


def _pixel_of_row(dpixel: DPixels, title: str) -> PixelSeries:
    clear = np.ones(len(dpixel.s2.doy), bool)
    streams = {"ascending": dpixel.s1_asc, "descending": dpixel.s1_desc}
    radar = {name: (s.doy, s.values) for name, s in streams.items() if len(s.doy)}
    return PixelSeries(title, dpixel.s2.doy, dpixel.s2.values, clear, radar)


def _require_few(count: int, option: str) -> None:
    if count > MOST_PIXELS:
        raise ParamsError(
            f"at most {MOST_PIXELS} to draw",
            found=str(count),
            where=option,
            mend="Draw them in turn.",
        )


def reflectance(series: PixelSeries, band: str) -> npt.NDArray[np.float64]:
    """Return (T,) surface reflectance of a band, 0..1 and above over cloud."""
    return series.bands[:, S2_BANDS.index(band)].astype(np.float64) / 10_000


def greenness(series: PixelSeries) -> npt.NDArray[np.float64]:
    """Return (T,) NDVI, (B08 - B04) / (B08 + B04); NaN where both are 0."""
    red, near = reflectance(series, "B04"), reflectance(series, "B08")
    total = red + near
    total[total == 0] = np.nan
    return (near - red) / total


def decibels(codes: npt.NDArray[Any], band: str) -> npt.NDArray[np.float64]:
    """Return (t,) backscatter in dB, 10 log10 of gamma nought; NaN where the code is 0.

    Stored is (20 log10(power) + 50) x 200, which is twice the conventional decibel.
    """
    code = codes[:, S1_BANDS.index(band)].astype(np.float64)
    return np.where(code != 0, (code / 200 - 50) / 2, np.nan)
