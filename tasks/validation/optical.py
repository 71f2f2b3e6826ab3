"""Measure the Sentinel-2 arrays of one tile: levels, clouds against validity, dates, band order.

The one idea: a fault that keeps shapes and types intact still breaks physics. Dark targets are
dark, so a left-in baseline offset lifts the darkest pixels; thick cloud is bright, white and not
always there, so it may not be common among observations marked clear; bands have their order
(``tasks.validation.band_order``). Ground that is bright by itself, like sand, salt and snow, says
nothing of an offset and hides its clouds, so neither is judged on it.
Everything is counted per date, so a large tile needs no more memory than a small one; statistics
that need many dates at once are taken from evenly spaced rows of pixels.

It measures and does not judge: limits are in ``tasks.validation.checks``.
"""

from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import S2_BANDS
from tasks.tiles import Array
from tasks.validation.agreement import is_snow, mask_fit
from tasks.validation.band_order import (
    Flags,
    Floats,
    best_order,
    detail_of,
    land_of,
    neighbour_ratios,
)
from tasks.validation.dpixel_checks import is_no_measurement

Row = dict[str, Any]

_MAX_PIXELS = 8192
"""Pixels of a tile that the statistics over many dates are taken from."""

WRAPPED_DN = 25_000
"""Above the brightest cloud and glint; a negative number stored as uint16 wraps to near 65,535."""

# Thick cloud: bright in all of the visible, white (flat), and not snow.
_CLOUD_MIN_DN = 2500
_CLOUD_MAX_SPREAD = 0.4
_CLOUD_OVER_GROUND = 1.5  # times the pixel's own level: salt and bright sand are always white
_GROUND_SHARE = (
    0.1  # quantile over time that shows the ground; higher ones are cloud in the tropics
)

OFFSET_DN = 1000
"""Added to every DN since processing baseline 04.00 (25 January 2022); readers subtract it."""

_DARK_PERCENTILE = 2.0
# Dark whatever the ground below. Leaves absorb blue and red: where the near infrared is twice the
# red, even over white sand, less than 1000 of blue is left. Water has no infrared, so with the
# offset its bands lie just above 1000. Sand, stone and salt are neither.
_VEGETATION_MIN_RATIO = 2.0
_WATER_MAX_DN = OFFSET_DN + 100
# A date above the tile's dark dates by about the offset; other changes of bright ground are not so.
_MIN_STEP_DN, _MAX_STEP_DN = OFFSET_DN - 300, OFFSET_DN + 400
_USUAL_DATES = 80.0  # percentile of the dates: a fifth may be lifted by haze or snow
_DARK_DATES = 10.0  # percentile of the dates that shows how dark the tile is

_MIN_CLEAR_SHARE = 0.2  # of a date; fewer clear pixels are the rims of clouds
_MIN_CLEAR_PIXELS = 30
_CLOUDED = 0.5  # share of a date's clear observations that look like cloud
_UNMASKED = 0.95  # share of a date's pixels marked clear: nothing was masked

_VISIBLE = ("B04", "B02", "B03")  # their darkest numbers tell an offset subtracted twice
_B02, _B03, _B04, _B08 = (S2_BANDS.index(band) for band in ("B02", "B03", "B04", "B08"))
_INFRARED = [S2_BANDS.index(band) for band in ("B8A", "B11", "B12")]


def measure_optical(bands: Array, valid: Array) -> tuple[Row, list[Row]]:
    """Measure the optical observations of a tile.

    Args:
        bands: (T, H, W, 10) DN of any numeric type, T at least 1.
        valid: (T, H, W), not 0 where the observation is clear.

    Returns:
        The statistics of the sensor, and those of each band in the order of ``S2_BANDS``. What
        cannot be measured (no clear observation, no land) is absent, never 0.
    """
    series, rows = _whole(bands, valid)
    values, clear = sampled(bands, valid)
    series |= _clouds(values, clear) | _dates(values, clear)
    spectra = values[clear]
    if not len(spectra):
        return series, rows
    series["bright_dn"] = float(np.percentile(spectra, 99, axis=0).max())
    dark = _dark_levels(spectra)
    if dark is not None:
        series |= {"dark_dn": float(dark.min()), "dark_band": S2_BANDS[int(dark.argmin())]}
    judged = _bands(spectra, detail_of(values, clear))
    return series, [row | more for row, more in zip(rows, judged, strict=True)]


def _bands(spectra: Floats, detail: dict[str, float]) -> list[Row]:
    """Measure each band on (N, 10) clear observations, N at least 1."""
    land = land_of(spectra)
    order, gain = best_order(land)
    ratios = neighbour_ratios(land)
    levels = np.percentile(spectra, (1, 50, 99), axis=0)
    rows: list[Row] = []
    for position, band in enumerate(S2_BANDS):
        row: Row = dict(zip(("p01", "p50", "p99"), levels[:, position].tolist(), strict=True))
        if len(land):  # the infrared of a calm sea hardly varies
            row["std"] = float(land[:, position].std())
        row["looks_like"] = order[position]
        row["order_gain"] = gain if order[position] != band else 0.0
        if band in ratios:
            row[f"ratio_{band}"] = ratios[band]
        if band in detail:
            row["detail"] = detail[band]
        if band in _VISIBLE and len(land):
            row["visible_floor"] = float((land[:, position] <= 1).mean())
        rows.append(row)
    return rows


def _whole(bands: Array, valid: Array) -> tuple[Row, list[Row]]:
    """Count over every number of the tile, one date at a time."""
    num_bands, num_chosen, num_clear, bad_flags = len(S2_BANDS), 0, 0, 0
    nan, wrapped, nodata, floor, total = (np.zeros(num_bands) for _ in range(5))
    lowest, highest = np.full(num_bands, np.inf), np.full(num_bands, -np.inf)
    for image, flag in zip(bands, valid, strict=True):
        finite = np.isfinite(image)
        nan += (~finite).sum(axis=(0, 1))
        wrapped += (finite & (image > WRAPPED_DN)).sum(axis=(0, 1))
        bad_flags += int((~np.isin(flag, (0, 1))).sum())
        num_clear += int((flag != 0).sum())
        chosen = image[(flag != 0) & finite.all(axis=-1)]
        if len(chosen):
            num_chosen += len(chosen)
            nodata += ((chosen == 0) & is_no_measurement(chosen)[:, None]).sum(axis=0)
            floor += (chosen <= 1).sum(axis=0)
            total += chosen.sum(axis=0, dtype=np.float64)
            lowest = np.minimum(lowest, chosen.min(axis=0))
            highest = np.maximum(highest, chosen.max(axis=0))
    measured = {"nan_share": nan / valid.size, "wrapped_share": wrapped / valid.size}
    if num_chosen:
        measured |= {"nodata_share": nodata / num_chosen, "floor_share": floor / num_chosen}
        measured |= {"min": lowest, "max": highest, "mean": total / num_chosen}
    rows = [{name: float(value[i]) for name, value in measured.items()} for i in range(num_bands)]
    return {"clear_share": num_clear / valid.size, "bad_flags": float(bad_flags)}, rows


def sampled(bands: Array, valid: Array) -> tuple[Floats, Flags]:
    """Return the numbers and validity of evenly spaced rows of pixels.

    Returns:
        float32 (T, h, W, 10) and True where clear and finite; numbers that are not finite are 0.
    """
    rows = sampled_rows(*bands.shape[1:3])
    values = bands[:, rows].astype(np.float32)
    finite = np.isfinite(values).all(axis=-1)
    values[~finite] = 0
    return values, (valid[:, rows] != 0) & finite


def sampled_rows(height: int, width: int) -> npt.NDArray[np.int64]:
    """Return evenly spaced rows of pixels; all rows of a tile of at most 8192 pixels."""
    num_rows = max(1, min(height, _MAX_PIXELS // max(width, 1)))
    return np.arange(num_rows, dtype=np.int64) * height // num_rows


def _looks_like_cloud(values: Floats) -> Flags:
    """Whether each observation is bright, white and not snow. Shape: values without the bands."""
    visible = values[..., [_B04, _B02, _B03]]
    low, high = visible.min(axis=-1), visible.max(axis=-1)
    white = (high - low) < _CLOUD_MAX_SPREAD * visible.mean(axis=-1)
    return np.asarray((low > _CLOUD_MIN_DN) & white & ~is_snow(values))


def _above_ground(values: Floats, seen: Flags) -> Flags:
    """Whether each observation is clearly brighter than its pixel is on its dark dates."""
    visible = values[..., [_B04, _B02, _B03]].mean(axis=-1)
    ordered = np.sort(np.where(seen, visible, np.inf), axis=0)
    rank = (_GROUND_SHARE * seen.sum(axis=0, keepdims=True)).astype(np.int64)
    ground = np.take_along_axis(ordered, rank.clip(max=len(values) - 1), axis=0)
    return np.asarray(visible > _CLOUD_OVER_GROUND * ground)


def _clouds(values: Floats, clear: Flags) -> Row:
    """Compare what looks like cloud with what is marked as not clear."""
    seen = np.asarray((values > 0).any(axis=-1))  # outside the swath there is nothing to look at
    cloud = _looks_like_cloud(values) & _above_ground(values, seen)
    masked = ~clear & seen
    # A cloudless year may be all clear; where there is cloud, nobody looked for it.
    row: Row = {"unmasked_cloud": float(cloud.mean()) if clear.all() else 0.0}
    if clear.any():
        row["undetected_cloud"] = float(cloud[clear].mean())
    if masked.any():
        row["cloud_in_masked"] = float(cloud[masked].mean())
    if clear.any() and masked.any():
        row["mask_contrast"] = row["cloud_in_masked"] - row["undetected_cloud"]
    fit = mask_fit(values, clear)
    if fit is not None:
        row["mask_fit"] = fit
    unmasked = clear.mean(axis=(1, 2)) >= _UNMASKED
    row["clouded_dates"] = int((unmasked & (cloud.mean(axis=(1, 2)) > _CLOUDED)).sum())
    return row


def _dark_levels(spectra: Floats) -> Floats | None:
    """Return the level of each band over the darkest pixels; None where nothing has to be dark.

    Args:
        spectra: (N, 10) DN of clear observations.
    """
    vegetation = spectra[:, _B08] > _VEGETATION_MIN_RATIO * spectra[:, _B04]
    water = spectra[:, _INFRARED].max(axis=1, initial=0) < _WATER_MAX_DN
    targets = spectra[vegetation | water]
    if len(targets) < _MIN_CLEAR_PIXELS:
        return None
    everywhere, there = (np.percentile(s, _DARK_PERCENTILE, axis=0) for s in (spectra, targets))
    return np.asarray(np.minimum(everywhere, there))


def _dates(values: Floats, clear: Flags) -> Row:
    """Look for single dates that are not like the rest: the offset left in, or images repeated."""
    needed = max(_MIN_CLEAR_PIXELS, _MIN_CLEAR_SHARE * clear[0].size)
    used = [date for date in range(len(values)) if clear[date].sum() >= needed]
    row: Row = {"repeated_dates": num_repeated(values)}
    if not used:
        return row
    row["lifted_date_dn"] = _lifted_dates([values[date][clear[date]] for date in used])
    return row


def _lifted_dates(dates: list[Floats]) -> float:
    """Return the darkest DN that four fifths of the dates stay below, where it means an offset.

    A date is judged by its vegetation and water, or by its step above the tile's dark dates;
    a date that has neither counts as 0.
    """
    dark = np.array([np.percentile(date, _DARK_PERCENTILE, axis=0).min() for date in dates])
    step = dark - np.percentile(dark, _DARK_DATES)
    lifted = np.where((step > _MIN_STEP_DN) & (step < _MAX_STEP_DN), dark, 0.0)
    for index, date in enumerate(dates):
        levels = _dark_levels(date)
        if levels is not None:
            lifted[index] = levels.min()
    return float(np.percentile(lifted, _USUAL_DATES, method="inverted_cdf"))


def num_repeated(values: Array) -> int:
    """Count the dates whose image equals an earlier one, number for number; empty ones aside."""
    seen: set[bytes] = set()
    repeated = 0
    for image in values:
        if image.any():
            digest = sha256(np.ascontiguousarray(image).tobytes()).digest()
            repeated += digest in seen
            seen.add(digest)
    return repeated
