"""Acquire d-pixels at points: one Parquet table a year, labels carried along.

The one idea: a point is the 10 m pixel that it lies in. Points of one cell are read together, through
the smallest window that holds them; everything else is as for tiles.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series, offsets_of
from tasks.acquire import Archive, Options, read_dates
from tasks.files import sha256_of, write_json
from tasks.lock import only_writer
from tasks.points import FOLDER
from tasks.progress import track
from tasks.stac.captures import Array, Target
from tasks.stac.days import OPTICAL
from tasks.stac.grid import PIXEL_M, Cell, box_around, cell_at, to_map
from tasks.stac.jobs import Job
from tasks.stac.optical import BANDS, VALID
from tasks.stac.point_tables import Places, read_places, write_dpixels
from tasks.stac.providers import ORBITS
from tasks.stac.radar import CODES
from tasks.stac.records import finished_table, record_of, remove_work, source_of
from tasks.stac.report import Report


@dataclass(frozen=True)
class TableJob:
    """The points of one year."""

    places: Places
    year: int
    jobs: list[Job]
    rows: list[npt.NDArray[np.int64]]
    """Of each job: which of the year's rows its points are."""

    def path(self, out: Path) -> Path:
        """Return where the table goes."""
        return out / FOLDER / f"{self.places.path.stem}_{self.year}.parquet"


def acquire_points(
    archive: Archive, points: Path, years: list[int], out: Path, options: Options
) -> Report:
    """Make a point table ``out/points/<name>_<year>.parquet`` of each year.

    Args:
        archive: Where scenes come from.
        points: Table with ``lon`` and ``lat``; see ``read_places``.
        years: Calendar years; a column ``year`` chooses among them, or names them if empty.
        out: Folder for the tables; unfinished work lies there, hidden.
        options: How.

    Raises:
        DataError: The table is not as described, or the catalogue cannot be searched.
        ParamsError: Nothing names a year.
        StageBusy: Another process writes to ``out``.
    """
    places = read_places(points)
    tables = [_table_job(archive, places, year) for year in places.years(years)]
    report = Report(str(out), notes=list(archive.notes))
    if options.is_dry:
        for job in (job for table in tables for job in table.jobs):
            report.plan(job)
        return report
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out / "ingest"):
        for table in tables:
            _make_table(archive, table, out, options, report)
    return report


def _table_job(archive: Archive, places: Places, year: int) -> TableJob:
    rows = places.rows_of(year)
    lon, lat = places.lon[rows], places.lat[rows]
    by_cell: dict[Cell, list[int]] = {}
    for index, place in enumerate(zip(lon, lat, strict=True)):
        by_cell.setdefault(cell_at(*place), []).append(index)
    members = [np.array(by_cell[cell]) for cell in sorted(by_cell)]
    named = list(zip(sorted(by_cell), members, strict=True))
    jobs = [
        _job(archive, cell, year, lon[chosen], lat[chosen])
        for cell, chosen in track(named, label=f"search {year}", total=len(named), unit="cells")
    ]
    return TableJob(places, year, jobs, members)


def _job(archive: Archive, cell: Cell, year: int, lon: Array, lat: Array) -> Job:
    """Plan the pixels that some points of a cell lie in."""
    column, row = (np.floor(n / PIXEL_M).astype(np.int64) for n in to_map(cell.crs, lon, lat))
    window = box_around(cell.crs, (column + 0.5) * PIXEL_M, (row + 0.5) * PIXEL_M)
    left, top = round(window.transform.c / PIXEL_M), round(window.transform.f / PIXEL_M)
    flat = (top - 1 - row) * window.shape[1] + (column - left)
    target = Target(window, np.ones(len(lon), bool), flat)
    return Job(archive.source, cell, year, target, (len(lon),), archive.plan(window, year))


def _make_table(
    archive: Archive, table: TableJob, out: Path, options: Options, report: Report
) -> None:
    path, digest = table.path(out), sha256_of(table.places.path)
    records, outcome = finished_table(path, [job.key for job in table.jobs], digest), "kept"
    if records is None:
        outcome = "replaced" if path.exists() else "made"
        for number, job in enumerate(table.jobs, start=1):
            read_dates(archive, job, out, options, f"{number}/{len(table.jobs)}")
        records = _write(table, path, out, digest)
    for job, record in zip(table.jobs, records, strict=True):
        remove_work(job, out, record)
        report.add(job, record, outcome)
    report.tables.append(str(path))


def _write(table: TableJob, path: Path, out: Path, digest: str) -> list[dict[str, Any]]:
    """Write the table, then the record that says it is whole; until then one that says nothing."""
    pairs = [(_dpixels_of(job, out), record_of(job, out)) for job in table.jobs]
    order = np.argsort(np.concatenate(table.rows))
    dpixels = DPixels.concatenate([block for block, _ in pairs]).take(order)
    records = [record for _, record in pairs]
    beside = source_of(path)
    write_json(beside, {"points_sha256": digest, "cells": []})
    write_dpixels(path, table.places, table.year, dpixels)
    made = {"points_sha256": digest, "table_sha256": sha256_of(path), "cells": records}
    write_json(beside, made)
    return records


def _dpixels_of(job: Job, out: Path) -> DPixels:
    """Collect the valid observations of a job's points."""
    optical = Series(np.zeros((0, len(S2_BANDS)), np.uint16), np.zeros(0, np.int16), _none(job))
    orbits = dict.fromkeys(
        ORBITS, Series(np.zeros((0, len(S1_BANDS)), np.int16), np.zeros(0, np.int16), _none(job))
    )
    for stream in job.streams:
        slots = job.slots(out, stream)
        doys = np.array([day.timetuple().tm_yday for day in slots.kept()], np.int16)
        if stream == OPTICAL:
            optical = _ragged(slots.read(BANDS), slots.read(VALID).astype(bool), doys)
        else:
            codes = slots.read(CODES)
            orbits[stream] = _ragged(codes, codes.any(axis=-1), doys)
    ids = np.arange(job.target.size, dtype=np.uint64)
    return DPixels(ids, optical, *orbits.values())


def _none(job: Job) -> npt.NDArray[np.int64]:
    return np.zeros(job.target.size + 1, np.int64)


def _ragged(values: Array, valid: Any, doys: Array) -> Series:
    """Turn (T, n, B) with validity (T, n) into observations, pixel by pixel in time order."""
    pixel, date = np.nonzero(valid.T)
    return Series(values[date, pixel], doys[date], offsets_of(valid.sum(axis=0, dtype=np.int64)))
