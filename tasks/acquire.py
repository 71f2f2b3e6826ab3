"""Acquire d-pixels from a STAC catalogue: tile folders by cell and year, or tables of points.

The one idea: a cell and year is planned before any of its pixels is read, so the plan can be shown,
and the whole outcome follows from it. Cells are worked through one after the other, so that memory
does not grow with their number; the dates of one are read by several threads. The stage
``tasks.ingest`` is another thing: it admits an archive that is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import DataError, ParamsError
from tasks.lock import only_writer
from tasks.progress import say, track
from tasks.stac.captures import Target
from tasks.stac.days import Plan, plan_days
from tasks.stac.grid import Cell, cells_of, degrees_of, region_of, window_of
from tasks.stac.items import without_query
from tasks.stac.jobs import Job, Source, read_job
from tasks.stac.providers import REFUSED, provider_of
from tasks.stac.radar import factor_of
from tasks.stac.reading import Access
from tasks.stac.records import remove_work
from tasks.stac.report import Report
from tasks.stac.search import ApiCatalogue, Catalogue, StaticCatalogue, year_span
from tasks.stac.signing import access_of
from tasks.stac.tile_folders import finished, write_tile


@dataclass(frozen=True, slots=True)
class Request:
    """Whom to ask, and for what."""

    provider: str
    catalogue: str = ""
    """Path or address of a static catalogue, or another address of the provider's API."""
    collection: str = ""
    """Optical collection, where a provider has several."""
    scale: str = "tessera"
    """Of the radar code."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to go about it."""

    workers: int = 1
    """Dates that are read at once."""
    retries: int = 4
    """Repetitions of a read that may heal."""
    is_dry: bool = False
    """Only show the plan."""


@dataclass(frozen=True)
class Archive:
    """A catalogue that is open, and how its rasters are reached."""

    source: Source
    catalogue: Catalogue
    access: Access
    notes: list[str] = field(default_factory=list)

    def plan(self, window: Any, year: int) -> Plan:
        """Find the scenes of a window and year, and group them into dates."""
        start, end = year_span(year)
        scenes = self.catalogue.search(self.source.collections, degrees_of(window), start, end)
        return plan_days(scenes, self.source.provider)


def open_archive(request: Request, options: Options) -> Archive:
    """Open a provider's catalogue.

    Raises:
        ParamsError: No such provider, collection or scale; a static catalogue without a place;
            credentials are missing.
        DataError: A static catalogue cannot be read, or has nothing that may be used.
    """
    provider = provider_of(request.provider)
    collections = provider.collections(request.collection)
    factor_of(request.scale)
    place = request.catalogue or provider.api
    if not place:
        raise ParamsError(
            "a catalogue",
            found="none",
            where="--catalog",
            mend="Name the path or the address of a static catalogue.",
        )
    access = access_of(provider, options.retries)
    if provider.api:
        source = Source(provider, without_query(place), collections, request.scale)
        return Archive(source, ApiCatalogue(place, provider.page_size), access)
    static = StaticCatalogue(place)
    source = Source(provider, without_query(static.place), collections, request.scale)
    return Archive(source, static, access, _unused(static, collections))


def acquire_tiles(
    archive: Archive, area: Any, years: Sequence[int], out: Path, options: Options
) -> Report:
    """Make a tile folder ``out/<year>/<cell>`` of each cell and year.

    Args:
        archive: Where scenes come from.
        area: Shape in degrees.
        years: Calendar years.
        out: Folder for all tiles; unfinished work lies there, hidden.
        options: How.

    Raises:
        DataError: The catalogue cannot be searched, or a place is taken by other data.
        StageBusy: Another process writes to ``out``.
    """
    places = [(cell, year) for year in years for cell in cells_of(area)]
    report = Report(str(out), notes=list(archive.notes))
    if options.is_dry:
        for cell, year in track(places, label="search", total=len(places), unit="cells"):
            report.plan(_job(archive, cell, year, area))
        return report
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out / "ingest"):
        for number, (cell, year) in enumerate(places, start=1):
            job = _job(archive, cell, year, area)
            record, outcome = finished(job, out), "kept"
            if record is None:
                outcome = "replaced" if (out / job.name).exists() else "made"
                read_dates(archive, job, out, options, f"{number}/{len(places)}")
                record = write_tile(job, out)
                if outcome == "replaced" and not any(record["dates"].values()):
                    report.notes.append(f"{job.name}: the tile of an earlier request was left")
            remove_work(job, out, record)
            report.add(job, record, outcome)
    return report


def _job(archive: Archive, cell: Cell, year: int, area: Any) -> Job:
    window = window_of(cell, area)
    target = Target(window, region_of(cell, area, window).reshape(-1))
    is_wanted = bool(target.region.any())  # a sliver may hold no pixel's centre
    plan = archive.plan(window, year) if is_wanted else plan_days((), archive.source.provider)
    return Job(archive.source, cell, year, target, tuple(window.shape), plan)


def read_dates(archive: Archive, job: Job, out: Path, options: Options, number: str) -> None:
    """Read the dates of a job, show how many are done, and say what a person should know of one.

    Args:
        archive: Where scenes come from.
        job: What is to be read.
        out: Folder that unfinished work lies in.
        options: How.
        number: Which job it is, and of how many.
    """
    receipts = read_job(job, out, archive.access, options.workers)
    label = f"{job.name} ({number})"
    for receipt in track(receipts, label=label, total=job.plan.size, unit="dates"):
        for line in receipt.warnings:
            say(f"warning: {line}")


def _unused(catalogue: StaticCatalogue, collections: Sequence[str]) -> list[str]:
    """Say which collections of a static catalogue are left alone, and why."""
    present = sorted({scene.collection for scene in catalogue.scenes})
    others = {name: REFUSED.get(name, "unknown here") for name in present}
    others = {name: why for name, why in others.items() if name not in collections}
    said = [f"collection {name} is not used: {why}" for name, why in others.items()]
    if len(others) == len(present):
        raise DataError(
            f"scenes of {' or '.join(collections)}",
            found="; ".join(said) or "no scene",
            where=without_query(catalogue.place),
            mend="Name another catalogue.",
        )
    return said
