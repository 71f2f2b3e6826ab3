"""Every fault that an archive may have: how it is planted, and what a verdict must say of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.bands import S2_BANDS
from tasks.validation.band_order import NEIGHBOURS

WAVELENGTH = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

Array = np.ndarray[Any, Any]
Fault = tuple[Callable[[Path], None], set[tuple[str, str, str]]]
ASC, DESC = "sar_ascending", "sar_descending"


def edit(name: str, change: Callable[[Array], Array]) -> Callable[[Path], None]:
    def apply(tile: Path) -> None:
        path = tile / f"{name}.npy"
        np.save(path, change(np.load(path)))

    return apply


def order(*bands: str) -> Callable[[Path], None]:
    """Store other bands in the places of the ten."""
    return edit("bands", lambda dn: dn[..., [S2_BANDS.index(band) for band in bands]])


def exchange(one: str, other: str) -> Callable[[Path], None]:
    swap = {one: other, other: one}
    return order(*(swap.get(band, band) for band in S2_BANDS))


def offset(dates: Callable[[int], Array]) -> Callable[[Path], None]:
    """Leave the offset of 1000 in on some dates, chosen by their number; 0 stays no data."""

    def lift(dn: Array) -> Array:
        chosen = dates(len(dn))[:, None, None, None]
        lifted: Array = (dn + 1000 * (chosen & (dn > 0))).astype(np.uint16)
        return lifted

    return edit("bands", lift)


def put(name: str, index: Any, value: float, dtype: str | None = None) -> Callable[[Path], None]:
    def change(array: Array) -> Array:
        array = array.astype(dtype) if dtype else array
        array[index] = value
        return array

    return edit(name, change)


def remove(*names: str) -> Callable[[Path], None]:
    def apply(tile: Path) -> None:
        for name in names:
            (tile / name).unlink()

    return apply


def cut(tile: Path) -> None:
    path = tile / "bands.npy"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def decibels(code: Array) -> Array:
    """Undo the code: conventional decibels times 10, as another archive may store them."""
    tenths: Array = ((code / 200 - 50) / 2 * 10).astype(np.int16)
    return tenths


def once_scaled(code: Array) -> Array:
    """Code 10 log10 of power instead of 20 log10."""
    again: Array = np.where(code != 0, ((code / 200 - 50) / 2 + 50) * 200, 0).astype(np.int16)
    return again


def lose_a_band(dn: Array) -> Array:
    """Lose one band on the clearest date of the year; the brightest dates are clouded."""
    day = int(np.argsort(np.median(dn[..., 0], axis=(1, 2)))[len(dn) // 4])
    dn[day, ..., 8] = 0
    return dn


def break_region(tile: Path) -> None:
    (tile / "roi.tiff").write_bytes(b"II*")


def s2(expectation: str, *bands: str) -> set[tuple[str, str, str]]:
    return {("s2", band, expectation) for band in bands or ("",)}


FAULTS: dict[str, Fault] = {
    "rotated": (
        edit("bands", lambda dn: np.roll(dn, 1, axis=-1)),
        s2("band_order", *S2_BANDS),
    ),
    "by_wavelength": (order(*WAVELENGTH), s2("band_order", *S2_BANDS[:8])),
    "red_blue": (exchange("B04", "B02"), s2("band_order", "B04", "B02")),
    "swir": (exchange("B11", "B12"), s2("band_order", "B11", "B12")),
    "red_edge": (exchange("B06", "B07"), s2("band_order", "B06", "B07")),
    "nir_twins": (exchange("B08", "B8A"), s2("detail_10m", "B08")),
    "edge_twins": (exchange("B8A", "B07"), s2("level_B8A_to_B07", "B8A")),
    "offset": (offset(lambda n: np.ones(n, bool)), s2("dark_targets") | s2("dark_dates")),
    "offset_half": (offset(lambda n: np.arange(n) % 2 == 0), s2("dark_dates")),
    "offset_late": (offset(lambda n: np.arange(n) >= n // 2), s2("dark_dates")),
    "offset_one_band": (
        edit("bands", lambda dn: dn + np.array([0, 1000] + [0] * 8, np.uint16)),
        s2("level_B02_to_B03", "B02"),
    ),
    "offset_twice": (
        edit("bands", lambda dn: np.maximum(dn, 1001) - np.uint16(1000)),
        s2("not_floored", "B02", "B04"),
    ),
    "overflow": (edit("bands", lambda dn: dn - np.uint16(1000)), s2("no_overflow", "B02", "B04")),
    "zero_band": (
        put("bands", np.s_[..., 6], 0),
        s2("no_data_masked", "B06") | s2("varies", "B06"),
    ),
    "zero_band_one_date": (edit("bands", lose_a_band), s2("no_data_masked", "B11")),
    "reflectance": (edit("bands", lambda dn: (dn // 100).astype(np.uint16)), s2("scale")),
    "nan": (
        put("bands", np.s_[3, 5, 5, 2], np.nan, "f4"),
        s2("layout") | s2("no_nan", "B03"),
    ),
    "float": (edit("bands", lambda dn: dn.astype("f8")), s2("layout")),
    "truncated": (cut, s2("layout")),
    "nine_bands": (edit("bands", lambda dn: dn[..., :9]), s2("layout")),
    "all_clear": (edit("masks", np.ones_like), s2("clouds_masked") | s2("some_masked")),
    "inverted": (edit("masks", lambda flag: 1 - flag), s2("mask_polarity") | s2("clouds_masked")),
    "empty": (edit("masks", np.zeros_like), s2("clear_share")),
    "flags_255": (edit("masks", lambda flag: flag * np.uint8(255)), s2("flags_0_or_1")),
    "masks_mirrored": (edit("masks", lambda flag: flag[:, ::-1]), s2("masks_fit_images")),
    "masks_short": (edit("masks", lambda flag: flag[:-1]), s2("layout")),
    "no_masks": (remove("masks.npy"), s2("layout")),
    "no_days": (remove("doys.npy"), s2("layout")),
    "no_bands": (remove("bands.npy"), s2("layout")),
    "day_twice": (
        edit("doys", lambda days: np.concatenate([days[:1], days[:-1]])),
        s2("no_duplicate_dates"),
    ),
    "image_twice": (
        edit("bands", lambda dn: np.concatenate([dn[:1], dn[:-1]])),
        s2("no_repeated_images"),
    ),
    "day_0": (put("doys", 0, 0), s2("doy_first")),
    "day_400": (put("doys", -1, 400), s2("doy_last") | s2("doy_in_year")),
    "unsorted": (edit("doys", lambda days: days[::-1]), s2("dates_rise")),
    "fractional_days": (edit("doys", lambda days: days / 365), s2("layout")),
    "vh_first": (
        edit(ASC, lambda code: code[..., ::-1]),
        {(ASC, "", "polarisation_order")},
    ),
    "radar_constant": (
        edit(ASC, lambda code: np.full_like(code, 5000)),
        {(ASC, "VV", "radar_varies"), (ASC, "VH", "radar_varies")},
    ),
    "radar_empty": (edit(ASC, np.zeros_like), {(ASC, "", "radar_valid")}),
    "radar_decibels": (edit(ASC, decibels), {(ASC, "VV", "code_range"), (ASC, "VV", "scale_VV")}),
    "radar_once_scaled": (edit(ASC, once_scaled), {(ASC, "VH", "level_VH")}),
    "radar_short": (edit(ASC, lambda code: code[1:]), {(ASC, "", "layout")}),
    "radar_other_grid": (edit(ASC, lambda code: code[:, 1:]), {(ASC, "", "layout")}),
    "radar_float": (
        put(ASC, np.s_[0, 0, 0, 1], np.nan, "f4"),
        {(ASC, "", "layout"), (ASC, "VH", "no_nan")},
    ),
    "radar_mirrored": (edit(ASC, lambda code: code[:, :, ::-1]), {(ASC, "", "radar_fits_images")}),
    "radar_day_0": (put(f"{ASC}_doy", 0, 0), {(ASC, "", "doy_first")}),
    "radar_unsorted": (
        edit(f"{ASC}_doy", lambda days: days[::-1]),
        {(ASC, "", "dates_rise")},
    ),
    "radar_no_days": (remove(f"{ASC}_doy.npy"), {(ASC, "", "layout")}),
    "bad_region": (break_region, {("", "", "layout")}),
}

# Expectations that a fault may break besides those it must: it is then seen from two sides, and
# how far that goes depends on the landscape. Every other fault breaks what is listed, no more.
LEVELS = {f"level_{band}_to_{spec[0]}" for band, spec in NEIGHBOURS.items()}
CLOUDS = {"clouds_masked", "clouded_dates_masked"}
ALSO: dict[str, set[str]] = {
    **dict.fromkeys(("rotated", "by_wavelength"), LEVELS | {"detail_10m"}),
    **dict.fromkeys(("swir", "red_edge", "zero_band"), LEVELS),
    **dict.fromkeys(("offset", "offset_half", "offset_late", "all_clear"), CLOUDS),
    "offset_one_band": {"band_order"},
    "offset_twice": LEVELS | {"not_floored"},
    "overflow": CLOUDS | {"no_overflow", "masks_fit_images"},
    "inverted": CLOUDS | {"dark_dates"},
    "image_twice": CLOUDS | {"masks_fit_images"},  # every image but the first is a date late
    "fractional_days": {"doy_first"},
    "vh_first": {"level_VH"},
    "radar_constant": {"no_repeated_images", "polarisation_order"},
    "radar_empty": {"radar_share"},
    "radar_decibels": {"radar_varies", "scale_VH", "code_range"},
    "radar_no_days": {"radar_dates"},
}
