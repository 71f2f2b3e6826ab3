"""Open a tile folder without refusing it, so that a fault becomes a row and not a crash.

``tasks.tiles`` reads strictly and stops at the first fault, which is right for every stage that
computes with the arrays. Validation has to name all faults of all tiles at once, so this reader
notes what is wrong with each file and hands on whatever can still be measured. It judges files
only: what the numbers mean is measured in ``tasks.validation.tables``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from tokenize import TokenError
from typing import Any

import numpy as np

from models.bands import S1_BANDS, S2_BANDS
from tasks.errors import DataError
from tasks.tiles import OPTICAL, RADAR, REGION, Array, TileRef, read_raster

S2 = "s2"
"""Name of the optical sensor in every table; a radar orbit is named by its file, ``RADAR``."""


@dataclass(slots=True)
class Survey:
    """What could be opened of one tile folder, and what is wrong with its files."""

    ref: TileRef
    files: list[dict[str, Any]] = field(default_factory=list)
    """One row a file: tile, sensor, band, file, fault (0 or 1), text (what was found)."""
    bands: Array | None = None
    """(T, H, W, 10) numbers of any type, NaN among them perhaps; None if not of that shape."""
    valid: Array | None = None
    """(T, H, W) validity as stored; None unless it fits the bands."""
    doys: Array | None = None
    """(T,) days as stored; None unless they are a row of numbers."""
    radar: dict[str, tuple[Array | None, Array | None]] = field(default_factory=dict)
    """Per orbit with a file: (T, H, W, 2) codes and (T,) days, each None if not usable."""
    region: Array | None = None
    """bool (H, W), pixels of the tile; None without a readable region file."""

    def note(self, sensor: str, file: str, *, found: str, expected: str, holds: bool) -> None:
        """Add the row of one file."""
        row = {"tile": self.ref.key, "sensor": sensor, "band": "", "file": file}
        text = f"{file}: {found}" if holds else f"{file}: {found}, not {expected}"
        self.files.append(row | {"fault": int(not holds), "text": text})


def survey_tile(ref: TileRef) -> Survey:
    """Open every file of a tile folder and note each one's faults.

    Args:
        ref: The tile; its folder must exist, its files need not.

    Returns:
        What was found. Arrays are memory maps of the stored type.
    """
    survey = Survey(ref)
    bands = _open(survey, S2, OPTICAL[0], "uint16 (T, H, W, 10)", _is_optical)
    survey.bands = _usable(bands, 4, len(S2_BANDS))
    grid = None if survey.bands is None else survey.bands.shape[:3]
    _survey_validity(survey, grid)
    survey.doys = _survey_days(survey, S2, OPTICAL[2], None if grid is None else grid[0])
    for orbit in RADAR:
        _survey_orbit(survey, orbit, grid)
    _survey_region(survey, grid)
    return survey


def _survey_validity(survey: Survey, grid: tuple[int, ...] | None) -> None:
    expected = f"uint8 {grid or '(T, H, W)'}"
    valid = _open(
        survey,
        S2,
        OPTICAL[1],
        expected,
        lambda found: found.dtype.kind in "bu" and found.ndim == 3 and grid in (None, found.shape),
    )
    if valid is not None and valid.shape == grid and valid.dtype.kind in "buif":
        survey.valid = valid


def _survey_days(survey: Survey, sensor: str, file: str, length: int | None) -> Array | None:
    days = _open(
        survey,
        sensor,
        file,
        f"integers ({'T' if length is None else length},)",
        lambda found: found.dtype.kind in "iu" and found.ndim == 1 and length in (None, len(found)),
    )
    return _usable(days, 1, None)


def _survey_orbit(survey: Survey, orbit: str, grid: tuple[int, ...] | None) -> None:
    files = (f"{orbit}.npy", f"{orbit}_doy.npy")
    if not any((survey.ref.folder / file).exists() for file in files):
        return  # An absent orbit is legal: Sentinel-1 does not see all land from both sides.
    where = (None, None) if grid is None else grid[1:3]
    expected = f"int16 (T, {where[0] or 'H'}, {where[1] or 'W'}, 2)"

    def is_radar(found: Array) -> bool:
        fits = found.ndim == 4 and found.shape[3] == len(S1_BANDS)
        placed = grid is None or found.shape[1:3] == where
        return len(found) == 0 or (found.dtype == np.int16 and fits and placed)

    values = _usable(_open(survey, orbit, files[0], expected, is_radar), 4, len(S1_BANDS))
    length = None if values is None else len(values)
    survey.radar[orbit] = (values, _survey_days(survey, orbit, files[1], length))


def _survey_region(survey: Survey, grid: tuple[int, ...] | None) -> None:
    path = survey.ref.folder / REGION
    if not path.exists():
        return
    expected = f"a GeoTIFF of shape {'(H, W)' if grid is None else grid[1:3]}"
    try:
        region = read_raster(path) != 0
    except DataError:
        survey.note("", REGION, found="not a readable GeoTIFF", expected=expected, holds=False)
        return
    holds = grid is None or region.shape == grid[1:3]
    survey.note("", REGION, found=f"shape {region.shape}", expected=expected, holds=holds)
    survey.region = region


def _open(
    survey: Survey, sensor: str, file: str, expected: str, holds: Callable[[Array], bool]
) -> Array | None:
    """Map one array and note whether it is as expected; None if it cannot be opened at all."""
    path = survey.ref.folder / file
    try:
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TokenError) as error:
        # The last three are of a damaged header. Only the kind of error: its text holds paths, and a verdict has the same bytes anywhere.
        found = f"unreadable ({type(error).__name__})" if path.exists() else "no such file"
        survey.note(sensor, file, found=found, expected=expected, holds=False)
        return None
    found = f"{array.dtype} {array.shape}"
    holds_here = array.ndim > 0 and holds(array)
    survey.note(sensor, file, found=found, expected=expected, holds=holds_here)
    return array


def _is_optical(found: Array) -> bool:
    return found.dtype == np.uint16 and found.ndim == 4 and found.shape[3] == len(S2_BANDS)


def _usable(array: Array | None, ndim: int, last: int | None) -> Array | None:
    """Return the array if numbers can be measured on it, whatever their type."""
    if array is None or array.ndim != ndim or array.dtype.kind not in "iuf":
        return None
    return array if last is None or array.shape[-1] == last else None
