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
from models.dpixel import DPixels
from tasks.ingest import Catalogue, Entry
from tasks.tiles import RADAR, Array
from tasks.validation.agreement import place_fit
from tasks.validation.checks import KEYS
from tasks.validation.dpixel_checks import KINDS, Scan, scan
from tasks.validation.observations import ObservationMaps
from tasks.validation.optical import measure_optical, sampled, sampled_rows
from tasks.validation.radar import measure_radar
from tasks.validation.survey import S2, Survey, survey_tile

Row = dict[str, Any]
Tables = dict[str, pd.DataFrame]

_LONGEST_HEADER = 128  # bytes; an array file of this size or less holds no numbers


def measure_archive(
    catalogue: Catalogue,
    indices: Iterable[int] | None = None,
    maps: ObservationMaps | None = None,
) -> Tables:
    """Measure every tile of a catalogue.

    Args:
        catalogue: The archive, as ingested.
        indices: Which tiles, in which order; all by default. Lets a caller show progress.
        maps: Takes a map of observation counts of each tile, which adds its shares to ``tiles``.

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
        tile |= {} if maps is None else maps.add(survey)
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
        measured, bands = measure_radar(values)
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


def shard_statistics(name: str, dpixels: DPixels, *, min_s2: int = 0, min_s1: int = 0) -> Row:
    """Measure one shard of d-pixels in one pass; mapped, it is never in memory as a whole.

    Args:
        name: The shard's file name.
        dpixels: Its rows.
        min_s2: Fewest optical observations that a row should have.
        min_s1: Fewest radar observations, both orbits together.

    Returns:
        One row: shard, rows, tiles (distinct, from the upper half of ``pixel_id``),
        s2_observations, s1_observations, min_s2 and min_s1 (fewest of any row), doy_min, doy_max,
        the columns of ``fault_columns``, and s2_mean_<band> and s1_mean_<band> over all
        observations. Means and days of a sensor that has no observation are absent.
    """
    radar = (dpixels.s1_asc, dpixels.s1_desc)
    seen = [series.doy for series in (dpixels.s2, *radar) if len(series.doy)]
    found = scan(dpixels, min_s2=min_s2, min_s1=min_s1)
    num_s2, num_s1 = num_observations(found)
    row: Row = {
        "shard": name,
        "rows": len(dpixels),
        "tiles": len(np.unique(dpixels.pixel_id >> np.uint64(32))),
        "s2_observations": num_s2,
        "s1_observations": num_s1,
        "min_s2": int(dpixels.s2.counts.min()) if len(dpixels) else 0,
        "min_s1": int(dpixels.s1_counts.min()) if len(dpixels) else 0,
    }
    if seen:
        row |= {
            "doy_min": min(int(days.min()) for days in seen),
            "doy_max": max(int(days.max()) for days in seen),
        }
    row |= fault_columns(found)
    row |= _means("s2_mean", found.sums["s2"], num_s2, S2_BANDS)
    return row | _means("s1_mean", found.sums["s1_asc"] + found.sums["s1_desc"], num_s1, S1_BANDS)


def num_observations(found: Scan) -> tuple[int, int]:
    """Return the optical and the radar observations that were scanned."""
    return found.observations["s2"], found.observations["s1_asc"] + found.observations["s1_desc"]


def fault_columns(found: Scan) -> Row:
    """Return the faults of d-pixels as columns.

    Returns:
        Per kind of fault the number of observations (or rows) that have it, or, where a few are
        tolerated, their share ``<kind>_share``; and ``first_<kind>``, where it is first met.
    """
    num_s2, num_s1 = num_observations(found)
    shares = {"zero_dn": num_s2, "saturated": num_s1, "repeated": num_s2 + num_s1}
    row: Row = {}
    for kind in KINDS:
        count = found.count(kind)
        row[f"first_{kind}"] = found.first(kind)
        if kind in shares:
            row[f"{kind}_share"] = count / max(shares[kind], 1)
        else:
            row[kind] = count
    return row


def _means(name: str, sums: npt.NDArray[np.int64], num: int, bands: tuple[str, ...]) -> Row:
    if not num:
        return {}
    return {f"{name}_{band}": int(sums[i]) / num for i, band in enumerate(bands)}
