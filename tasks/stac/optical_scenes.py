"""Turn the optical dates of a tile into Sentinel-2 scenes that look like a provider's.

The one idea: a tile is a stack of images, so each date becomes a scene again, with the asset keys, the
properties and the radiometric offset of the provider that is imitated.

Classes are told from masks alone: 0 where no band has data, 9 (cloud) where the mask is 0, else 4
(vegetation), or 5 (bare ground) where no visible band is below 1000. Decision: the last, because
vegetation that bright would be evidence of an offset in the pixels.

It deliberately makes up nothing else: dates without any data are no scenes, clouds keep their values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from rasterio.transform import Affine

from models.bands import S2_BANDS
from tasks.errors import DataError
from tasks.stac.place import Place
from tasks.stac.providers import (
    CDSE,
    CLASSES,
    EARTH_SEARCH,
    PLANETARY_COMPUTER,
    OpticalForm,
)
from tasks.stac.scenes import write_scene
from tasks.tiles import Array, Tile

OFFSET_SINCE = date(2022, 1, 25)
"""First day of processing baseline 04.00, which adds 1000 to every digital number."""

_OFFSET = 1000
_COARSE = ("B8A", "B05", "B06", "B07", "B11", "B12")
_VISIBLE = [S2_BANDS.index(band) for band in ("B04", "B02", "B03")]
_SCALE = 1e-4
_AT = time(10, 56)


@dataclass(frozen=True, slots=True)
class Habits:
    """What the Sentinel-2 items of a provider say, beside the form of their assets."""

    form: OpticalForm
    """Asset keys, collection, and whether pixels keep the offset."""
    square: str
    """Property that names the MGRS square."""
    square_prefix: str = ""
    """What stands before the square in it."""
    says_scale: bool = True
    """Assets declare scale and offset."""

    def has_offset(self, day: date) -> bool:
        """Tell whether pixels of a day hold the added 1000."""
        return self.form.keeps_offset and day >= OFFSET_SINCE


PROFILES: dict[str, Habits] = {
    "earth-search": Habits(EARTH_SEARCH, "grid:code", "MGRS-"),
    "planetary-computer": Habits(PLANETARY_COMPUTER, "s2:mgrs_tile", says_scale=False),
    "cdse": Habits(CDSE, "grid:code", "MGRS-"),
}


@dataclass(frozen=True, slots=True)
class Form:
    """How scenes are stored."""

    habits: Habits
    """The provider that is imitated."""
    is_split: bool = False
    """Two overlapping scenes a date, west and east, instead of one."""
    is_native: bool = False
    """The bands of 20 m, and the classes, stored at 20 m: means of 2 x 2, the worst class."""


def publish_optical(out: Path, tile: Tile, place: Place, form: Form) -> Iterator[pystac.Item]:
    """Write the Sentinel-2 scenes of a tile, one date after the other.

    Args:
        out: The catalogue's folder.
        tile: An open tile.
        place: Where it lies.
        form: How scenes are stored.

    Yields:
        One item a scene.

    Raises:
        DataError: A day is no day of the year, or comes twice; or an odd number of pixels is to be
            stored at 20 m.
    """
    days = place.dates(tile, "doys.npy", tile.doys)
    columns = _halves(tile.shape[1]) if form.is_split else [slice(None)]
    for index, day in enumerate(days):
        for square, span in zip(place.squares, columns, strict=False):
            bands = np.asarray(tile.bands[index, :, span])
            if not bands.any():
                continue
            clear = np.asarray(tile.valid[index, :, span]) != 0
            grid = place.transform * Affine.translation(span.start or 0, 0)
            yield write_scene(
                out,
                f"S2A_{square}_{day:%Y%m%d}_0_L2A",
                form.habits.form.collections[0],
                datetime.combine(day, _AT, UTC),
                crs=place.crs,
                transform=grid,
                **_optical_assets(bands, clear, grid, day, form),
                properties=_optical_properties(square, day, clear, form.habits),
            )


def _halves(width: int) -> list[slice]:
    """Return two spans of columns that share a quarter of the width, at even columns."""
    eighth, middle = max(2, width // 16 * 2), width // 4 * 2
    return [slice(0, middle + eighth), slice(middle - eighth, width)]


def _optical_assets(bands: Array, clear: Array, grid: Affine, day: date, form: Form) -> Any:
    """Return the keywords ``assets``, ``nodata`` and ``scale_offset`` of ``write_scene``."""
    keys, has_offset = form.habits.form.keys, form.habits.has_offset(day)
    rasters = {band: bands[..., index] for index, band in enumerate(S2_BANDS)}
    rasters[CLASSES] = _classes(bands, clear)
    if form.is_native:
        rasters |= {band: _coarsened(rasters[band], band) for band in (*_COARSE, CLASSES)}
    if has_offset:
        rasters |= {band: _with_offset(rasters[band]) for band in S2_BANDS}
    coarse = grid * Affine.scale(2)
    stored = {
        keys[band]: (values, grid if values.shape == clear.shape else coarse)
        for band, values in rasters.items()
    }
    scale_offset = (_SCALE, -_SCALE * _OFFSET if has_offset else 0.0)
    scaled = [keys[band] for band in S2_BANDS] if form.habits.says_scale else []
    return {
        "assets": stored,
        "nodata": dict.fromkeys(stored, form.habits.form.nodata),
        "scale_offset": dict.fromkeys(scaled, scale_offset),
    }


def _classes(bands: Array, clear: Array) -> Array:
    dark = (bands[..., _VISIBLE] < _OFFSET).any(axis=-1)
    seen = np.where(clear, np.where(dark, 4, 5), 9)
    return np.where((bands > 0).any(axis=-1), seen, 0).astype(np.uint8)


def _with_offset(values: Array) -> Array:
    """Add 1000 where there is data; 65535 is saturated, in the real products too."""
    most = np.iinfo(np.uint16).max
    return np.where(values > 0, np.minimum(values.astype(np.int64) + _OFFSET, most), 0).astype(
        np.uint16
    )


def _coarsened(values: Array, band: str) -> Array:
    """Return (H / 2, W / 2): means of reflectance, the worst class; no data wins in both."""
    height, width = values.shape
    if height % 2 or width % 2:
        raise DataError(
            "an even number of rows and columns",
            found=f"{height} x {width}",
            where=band,
            mend="Leave out --native.",
        )
    four = values.reshape(height // 2, 2, width // 2, 2)
    if band == CLASSES:
        worst = four.max(axis=(1, 3))
    else:
        worst = np.rint(four.mean(axis=(1, 3))).astype(values.dtype)
    return np.where((four > 0).all(axis=(1, 3)), worst, 0).astype(values.dtype)


def _optical_properties(square: str, day: date, clear: Array, habits: Habits) -> dict[str, Any]:
    is_new = day >= OFFSET_SINCE
    said: dict[str, Any] = {
        "platform": "sentinel-2a",
        "constellation": "sentinel-2",
        habits.square: habits.square_prefix + square,
        "eo:cloud_cover": round(100 * float(1 - clear.mean()), 2),
        "s2:processing_baseline": "04.00" if is_new else "03.01",
        "s2:datatake_id": f"GS2A_{day:%Y%m%d}T{_AT:%H%M%S}",
    }
    if not habits.form.keeps_offset:
        said["earthsearch:boa_offset_applied"] = is_new
    return said
