"""A tile folder: its files, its series, its ranges, and where it comes from.

It is read date by date with the lenient reader of the validation, so a faulty tile is shown with its
faults instead of being refused.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.files import release_pages
from tasks.georeference import read_georeference
from tasks.inspection.finding import Finding, Row, size_text
from tasks.inspection.record import without_lists
from tasks.inspection.tally import Tally, tables_of
from tasks.tiles import OPTICAL, RADAR, REGION, SOURCE, Array, TileRef
from tasks.validation.survey import Survey, survey_tile

KIND = "tile folder"


def is_tile(path: Path) -> bool:
    """Return whether a folder holds arrays of a tile."""
    return path.is_dir() and any((path / name).is_file() for name in (*OPTICAL, *_RADAR_FILES))


_RADAR_FILES = tuple(f"{orbit}.npy" for orbit in RADAR)


def tile_ref(folder: Path) -> TileRef:
    """Return a tile by its folder alone; a parent folder of four digits is its year."""
    folder = folder.resolve()
    return TileRef("/".join(folder.parts[-2:]), folder)


def describe_tile(path: Path) -> Finding:
    """Look into a tile folder; reads every array once, date by date."""
    survey = survey_tile(tile_ref(path))
    tallies = [_optical(survey), *(_radar(survey, orbit) for orbit in RADAR)]
    facts = _place(survey) | _dates(survey) | _clear(survey, tallies[0])
    if (path / SOURCE).is_file():
        facts["source"] = _source(path / SOURCE)
    missing = [orbit.removeprefix("sar_") for orbit in RADAR if orbit not in survey.radar]
    facts["orbits missing"] = missing
    files = [
        {"file": row["file"], "fault": bool(row["fault"]), "what": row["text"].split(": ", 1)[1]}
        for row in survey.files
    ]
    return Finding(KIND, str(path), facts, tables_of(tallies) | {"Files": files})


def _place(survey: Survey) -> Row:
    folder, shape = survey.ref.folder, None
    if survey.bands is not None:
        shape = f"{survey.bands.shape[1]} x {survey.bands.shape[2]} px (height x width)"
    facts: Row = {"size": shape, "year": survey.ref.year or None}
    facts["bytes"] = size_text(sum(p.stat().st_size for p in folder.iterdir() if p.is_file()))
    if survey.region is not None:
        facts["region"] = f"{int(survey.region.sum()):,} of {survey.region.size:,} pixels"
        grid = read_georeference(folder / REGION)
        facts |= {"crs": grid["crs"], "bounds": grid["bounds"]}
    return facts


def _dates(survey: Survey) -> Row:
    days = {"optical": survey.doys}
    days |= {orbit.removeprefix("sar_"): pair[1] for orbit, pair in survey.radar.items()}
    return {f"{series} dates": 0 if found is None else len(found) for series, found in days.items()}


def _clear(survey: Survey, optical: Tally) -> Row:
    if survey.valid is None or not survey.valid.size:
        return {}
    region = int(_region(survey).sum()) * len(survey.valid)
    return {"clear share": optical.observations / region if region else None}


def _region(survey: Survey) -> Array:
    shape = survey.valid.shape[1:] if survey.valid is not None else (0, 0)
    if survey.region is not None and survey.region.shape == shape:
        return survey.region
    return np.ones(shape, bool)


def _optical(survey: Survey) -> Tally:
    tally = Tally("optical")
    if survey.bands is None or survey.valid is None or survey.doys is None:
        return tally
    if len(survey.doys) == len(survey.bands):
        flags = (np.asarray(flag) != 0 for flag in survey.valid)
        _count(tally, survey.bands, flags, survey.doys, _region(survey))
    return tally


def _radar(survey: Survey, orbit: str) -> Tally:
    tally = Tally(orbit.removeprefix("sar_"))
    values, days = survey.radar.get(orbit, (None, None))
    if values is None or days is None or len(values) != len(days) or not len(days):
        return tally
    region = _region(survey)
    if region.shape != values.shape[1:3]:
        region = np.ones(values.shape[1:3], bool)
    flags = ((np.asarray(image) != 0).any(axis=-1) for image in values)
    _count(tally, values, flags, days, region)
    return tally


def _count(tally: Tally, values: Array, flags: Any, days: Array, region: Array) -> None:
    counts = np.zeros(region.shape, np.int32)
    for image, flag, day in zip(values, flags, days, strict=True):
        usable = flag & region
        counts += usable
        seen = np.asarray(image)[usable]
        tally.add_values(seen, np.array([day]))
        release_pages(values)
    tally.add_counts(counts[region])


def _source(path: Path) -> Any:
    """Return what the record says, without what ``tessera inspect`` of the record itself lists."""
    try:
        return without_lists(json.loads(path.read_text()), {})
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        return f"not readable: {error}"
