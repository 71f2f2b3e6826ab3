"""Turn an archive, or a shard, into flat tables of statistics that expectations can be held to.

The one idea: a tile of a hundred million numbers becomes a few rows, one a file, one a sensor, one
a band, so every expectation is a bound on a column and every failure has an address. Nothing here
refuses anything: what cannot be measured is an empty cell, and the file that caused it has a row
that says so.

Tables: ``files`` (tile, sensor, file), ``tiles``, ``series`` (tile, sensor), ``bands`` (tile,
sensor, band). The optical columns are made by ``tasks.validation.optical``.
"""

from calendar import isleap
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series
from tasks.ingest import Catalogue, Entry
from tasks.tiles import RADAR, Array
from tasks.validation.agreement import place_fit
from tasks.validation.band_order import Flags
from tasks.validation.checks import KEYS
from tasks.validation.optical import measure_optical, num_repeated, sampled, sampled_rows
from tasks.validation.survey import S2, Survey, survey_tile

Row = dict[str, Any]
Tables = dict[str, pd.DataFrame]

_LONGEST_HEADER = 128  # bytes; an array file of this size or less holds no numbers


def measure_archive(catalogue: Catalogue, indices: Iterable[int] | None = None) -> Tables:
    """Measure every tile of a catalogue.

    Args:
        catalogue: The archive, as ingested.
        indices: Which tiles, in which order; all by default. Lets a caller show progress.

    Returns:
        The four tables of this module, rows in the order of the catalogue.

    Raises:
        DigestMismatch: A file of the archive changed since it was ingested.
    """
    rows: dict[str, list[Row]] = {"files": [], "tiles": [], "series": [], "bands": []}
    owners = _owners(catalogue)
    for index in range(len(catalogue)) if indices is None else indices:
        entry = catalogue.entries[index]
        survey = survey_tile(catalogue.tile(index))
        rows["files"] += survey.files
        tile = _tile_row(survey, entry, owners)
        rows["tiles"].append(tile)
        fits = _place_fits(survey)
        for sensor in (S2, *survey.radar):
            series, bands = _sensor_rows(survey, sensor, entry.year)
            series |= fits.get(sensor, {})
            rows["series"].append(_address(entry.key, sensor) | series)
            names = S2_BANDS if sensor == S2 else S1_BANDS
            rows["bands"] += [
                _address(entry.key, sensor, band) | row
                for band, row in zip(names, bands, strict=True)
            ]
        tile |= _radar_share(rows["series"][-len(survey.radar) :] if survey.radar else [])
    return {name: _frame(content) for name, content in rows.items()}


def _frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(KEYS))


def _address(tile: str, sensor: str = "", band: str = "") -> Row:
    return dict(zip(KEYS, (tile, sensor, band), strict=True))


def _owners(catalogue: Catalogue) -> Counter[str]:
    """Count the tiles that hold each content, by digest of the file."""
    return Counter(
        digest for entry in catalogue.entries for digest in set(_contents(entry).values())
    )


def _contents(entry: Entry) -> dict[str, str]:
    names = ("bands.npy", *(f"{orbit}.npy" for orbit in RADAR))
    return {
        name: entry.files[name]["sha256"]
        for name in names
        if name in entry.files and entry.files[name]["size"] > _LONGEST_HEADER
    }


def _tile_row(survey: Survey, entry: Entry, owners: Counter[str]) -> Row:
    copied = [name for name, digest in _contents(entry).items() if owners[digest] > 1]
    row = _address(entry.key) | {"copied_files": len(copied), "copied": " ".join(copied)}
    days = [doys for _, doys in survey.radar.values() if doys is not None]
    row["radar_dates"] = sum(len(doys) for doys in days)
    if survey.region is not None:
        row["region_share"] = float(survey.region.mean())
    return row


def _radar_share(orbits: list[Row]) -> Row:
    """Share of all radar observations that have data, both orbits together."""
    seen = [orbit for orbit in orbits if "valid_share" in orbit]
    total = sum(orbit["observations"] for orbit in seen)
    valid = sum(orbit["observations"] * orbit["valid_share"] for orbit in seen)
    return {"radar_share": valid / total} if total else {}


def _sensor_rows(survey: Survey, sensor: str, year: int) -> tuple[Row, list[Row]]:
    """Measure one sensor of a tile: the row of the series, and one for each band measured."""
    values, doys = (survey.bands, survey.doys) if sensor == S2 else survey.radar[sensor]
    names = S2_BANDS if sensor == S2 else S1_BANDS
    series: Row = {"optical_dates": len(doys)} if sensor == S2 and doys is not None else {}
    if doys is not None:
        series |= _days(doys, year)
    bands: list[Row] = [{} for _ in names]
    if values is None or not values.size:
        return series, bands
    if sensor != S2:
        measured, bands = _radar(values)
    elif survey.valid is None:
        return series, bands
    else:
        measured, bands = measure_optical(values, survey.valid)
    return series | measured, bands


def _place_fits(survey: Survey) -> dict[str, Row]:
    """Compare each orbit that fits the optical grid with the optical images."""
    if survey.bands is None or survey.valid is None or not survey.bands.size:
        return {}
    height, width = survey.bands.shape[1:3]
    values, clear = sampled(survey.bands, survey.valid)
    rows: dict[str, Row] = {}
    for orbit, (codes, _) in survey.radar.items():
        if codes is None or codes.shape[1:3] != (height, width) or not len(codes):
            continue
        sample = np.nan_to_num(codes[:, sampled_rows(height, width)].astype(np.float32))
        fit = place_fit(values, clear, sample)
        if fit is not None:
            rows[orbit] = {"place_fit": fit}
    return rows


def _days(doys: Array, year: int) -> Row:
    """Measure a day list: its range, and whether it rises."""
    if not len(doys):
        return {}
    days = np.asarray(doys, dtype=np.float64)
    last = 366 if year == 0 or isleap(year) else 365
    return {
        "doy_min": float(days.min()),
        "doy_max": float(days.max()),
        "days_past_year": float((days > last).sum()),
        "duplicate_dates": float(len(days) - len(np.unique(days))),
        "unsorted_dates": float((np.diff(days) < 0).sum()),
    }


def _radar(values: Array) -> tuple[Row, list[Row]]:
    """Measure one orbit: (T, H, W, 2) codes, valid where VV or VH is not 0."""
    series, rows = _radar_whole(values)
    sample = values[:, sampled_rows(*values.shape[1:3])]
    codes = sample[_radar_valid(sample)].astype(np.float64)
    if not len(codes):
        return series, rows
    for band, row, column in zip(S1_BANDS, rows, codes.T, strict=True):
        # Over calm water VH is often below the lowest code, and clipped to 0.
        measured = column[column != 0] if (column != 0).any() else column
        levels = np.percentile(measured, (1, 50, 95, 99)).tolist()
        row.update(zip(("p01", "p50", "p95", "p99"), levels, strict=True))
        row["mean"], row["code_std"] = float(measured.mean()), float(measured.std())
        row[f"median_{band}"], row[f"high_{band}"] = levels[1], levels[2]
    series["vv_above_vh"] = float((codes[:, 0] > codes[:, 1]).mean())
    return series, rows


def _radar_whole(values: Array) -> tuple[Row, list[Row]]:
    """Count over every number of an orbit, one date at a time."""
    num_bands, num_valid, num_total = len(S1_BANDS), 0, values[..., 0].size
    nan, low, high = np.zeros(num_bands), np.full(num_bands, np.inf), np.full(num_bands, -np.inf)
    for image in values:
        valid = _radar_valid(image)
        nan += (~np.isfinite(image)).sum(axis=(0, 1))
        num_valid += int(valid.sum())
        if valid.any():
            low = np.minimum(low, image[valid].min(axis=0))
            high = np.maximum(high, image[valid].max(axis=0))
    rows: list[Row] = [{"nan_share": float(n) / num_total} for n in nan]
    if num_valid:
        for i, row in enumerate(rows):
            row.update(code_min=float(low[i]), code_max=float(high[i]))
    series: Row = {"observations": num_total, "valid_share": num_valid / num_total}
    return series | {"repeated_dates": num_repeated(values)}, rows


def _radar_valid(values: Array) -> Flags:
    finite = np.isfinite(values).all(axis=-1)
    return np.asarray(finite & (np.asarray(values) != 0).any(axis=-1))


def shard_statistics(name: str, dpixels: DPixels) -> Row:
    """Measure one shard of d-pixels.

    Args:
        name: The shard's file name.
        dpixels: Its rows.

    Returns:
        One row: shard, rows, tiles (distinct, from the upper half of ``pixel_id``),
        s2_observations, s1_observations, min_s2 and min_s1 (fewest of any row), doy_min, doy_max,
        nan (numbers that are not finite), duplicate_ids, unordered (rows whose days do not rise),
        and s2_mean_<band> and s1_mean_<band> over all observations. Means and days of a sensor
        that has no observation are absent.
    """
    radar = (dpixels.s1_asc, dpixels.s1_desc)
    ids = dpixels.pixel_id
    row: Row = {
        "shard": name,
        "rows": len(dpixels),
        "tiles": len(np.unique(ids >> np.uint64(32))),
        "s2_observations": len(dpixels.s2.doy),
        "s1_observations": sum(len(series.doy) for series in radar),
        "min_s2": int(dpixels.s2.counts.min(initial=0 if not len(ids) else np.iinfo(np.int64).max)),
        "min_s1": int(dpixels.s1_counts.min(initial=0 if not len(ids) else np.iinfo(np.int64).max)),
        "duplicate_ids": len(ids) - len(np.unique(ids)),
        "unordered": sum(_num_unordered(series) for series in (dpixels.s2, *radar)),
        "nan": sum(int((~np.isfinite(s.values)).sum()) for s in (dpixels.s2, *radar)),
    }
    days = np.concatenate([series.doy for series in (dpixels.s2, *radar)])
    if len(days):
        row |= {"doy_min": int(days.min()), "doy_max": int(days.max())}
    row |= _means("s2_mean", dpixels.s2.values, S2_BANDS)
    return row | _means("s1_mean", np.concatenate([s.values for s in radar]), S1_BANDS)


def _num_unordered(series: Series) -> int:
    """Count d-pixels in which a day is not later than the one before it."""
    owner = np.repeat(np.arange(len(series)), series.counts)
    back = (np.diff(series.doy.astype(np.int64)) <= 0) & (np.diff(owner) == 0)
    return len(np.unique(owner[1:][back]))


def _means(name: str, values: npt.NDArray[Any], bands: tuple[str, ...]) -> Row:
    if not len(values):
        return {}
    means = values.mean(axis=0, dtype=np.float64)
    return {f"{name}_{band}": float(mean) for band, mean in zip(bands, means, strict=True)}
