"""Import tile folders and point tables into an archive; the door is ``tessera import``.

    <archive>/tiles/<year>/<place>/<tile>/    the arrays in the layout, and source.json
    <archive>/labels/<year>/<place>/<tile>_<label>.tif
    <archive>/points/<table>.parquet

The one idea: the source is only read, each tile is built aside and appears whole, so the same command
goes on after a crash and does nothing twice. A tile that cannot be imported costs that tile only: the
others are done, and it is listed at the end.

It deliberately overwrites nothing: another tile or table of the same name is a reason to stop.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.embedding.plausibility import check_points, source_record
from tasks.embedding.unread import folders_without_tile
from tasks.errors import DataError, ParamsError, StageBusy, TesseraError
from tasks.files import sha256_of, sync_file, sync_folder, write_bytes
from tasks.importing.tile import TileJob, import_tile
from tasks.points import FOLDER, find_tables, open_points
from tasks.progress import say, track
from tasks.tiles import TileRef, find_labels, find_tiles, tiles_root

_WORK = ".importing"
_CONTAINERS = ("tiles", "retiled_d_pixel")  # of layouts; they say nothing about a tile
_YEAR = re.compile(r"^\d{4}$")


@dataclass(slots=True)
class ImportReport:
    """What came of an import."""

    archive: str
    tiles: dict[str, list[str]] = field(default_factory=dict)
    """Tiles imported, by key, and what was changed in them."""
    tables: dict[str, int] = field(default_factory=dict)
    """Point tables imported, by name, and their rows."""
    kept: list[str] = field(default_factory=list)
    """Imported by an earlier run from the same bytes."""
    failed: dict[str, str] = field(default_factory=dict)
    """Tile or table of the source, and the reason."""

    def render(self) -> str:
        """Return the summary as text, with the command that comes next."""
        lines = [
            f"tiles imported: {len(self.tiles)}; tables imported: {len(self.tables)}; "
            f"kept: {len(self.kept)}; failed: {len(self.failed)}"
        ]
        lines += [f"{key}: {change}" for key, found in self.tiles.items() for change in found]
        lines += [f"FAILED {key}: {reason}" for key, reason in self.failed.items()]
        if self.tiles or self.tables or self.kept:
            lines.append(f"Next: make full DATA={self.archive}")
        return "\n".join(lines)


def import_archive(
    source: Path, archive: Path, *, year: int = 0, force: bool = False
) -> ImportReport:
    """Import everything that a source holds.

    Args:
        source: Folder with tile folders anywhere below it and tables in ``points/``, or one table.
        archive: Folder to add to; made if it is not there.
        year: Calendar year of the tiles whose path does not name one; 0 for unknown.
        force: Leave out the check of what the numbers mean.

    Raises:
        DataError: The source holds neither tiles nor tables, or the archive has another layout.
        ParamsError: A year is given for a table.
        StageBusy: Another process imports into the archive.
    """
    if source.is_file() and year:
        raise ParamsError(
            "no year for a table, which names it in its column `year`",
            found=str(year),
            where="--year",
            mend="Leave it out.",
        )
    tables = [source] if source.is_file() else find_tables(source)
    refs = [] if source.is_file() else find_tiles(source, least=0 if tables else 1)
    _require_layout(source, archive)
    report = ImportReport(str(archive))
    if refs:
        report.failed |= folders_without_tile(source, refs)
    with _workplace(archive) as work:
        for ref in track(refs, label="import", total=len(refs), unit="tiles"):
            with _listed(ref.key, report):
                _import_tile(ref, source, archive, year, work / "tile", force=force, report=report)
        for legend in sorted((source / "labels").glob("*.json")):
            with _listed(legend.name, report):
                _import_legend(legend, archive)
        for table in track(tables, label="import", total=len(tables), unit="tables"):
            with _listed(table.name, report):
                _import_table(table, archive, work, force=force, report=report)
    return report


def _import_tile(
    ref: TileRef,
    source: Path,
    archive: Path,
    year: int,
    build: Path,
    *,
    force: bool,
    report: ImportReport,
) -> None:
    key = archive_key(ref, year)
    if key in report.tiles or key in report.kept:
        raise DataError(
            "one tile of a name and year",
            found="a second one",
            where=key,
            mend="Import them into two archives, or rename a folder above one of them.",
        )
    record = source_record(ref.folder, source)
    job = TileJob(ref, find_labels(source, ref), record, key, archive, force)
    changes = import_tile(job, build)
    if changes is None:
        report.kept.append(key)
    else:
        report.tiles[key] = changes


def archive_key(ref: TileRef, year: int) -> str:
    """Return a tile's path below ``tiles/``: year, what of its path tells it from others, name.

    Raises:
        DataError: The path names another year than ``year``.
    """
    if ref.year and year and ref.year != year:
        raise DataError(
            f"tiles of the year {year}",
            found=f"the year {ref.year} in the path",
            where=ref.key,
            mend="Leave --year out, or import that folder alone.",
        )
    above = ref.key.split("/")[:-1]
    place = [part for part in above if part not in _CONTAINERS and not _YEAR.match(part)]
    found = ref.year or year
    return "/".join([*([str(found)] if found else []), *place, ref.name])


def _import_table(
    path: Path, archive: Path, work: Path, *, force: bool, report: ImportReport
) -> None:
    """Copy a table and read the copy to its end before it gets its name."""
    target = archive / FOLDER / f"{path.stem}.parquet"
    if target.exists():
        if sha256_of(target) != sha256_of(path):
            raise DataError(
                "no other table of this name in the archive",
                found="one with other bytes",
                where=str(target),
                mend="Remove it, or give this one another name.",
            )
        report.kept.append(f"{FOLDER}/{target.name}")
        return
    aside = work / target.name
    shutil.copyfile(path, aside)
    rows = _count_rows(aside, path, force=force)
    sync_file(aside)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside.replace(target)
    sync_folder(target.parent)
    report.tables[target.name] = rows


def _count_rows(copy: Path, path: Path, *, force: bool) -> int:
    """Read the copy of a table to its end; a fault is named by the table itself."""
    try:
        table = open_points(copy)
        blocks = table.blocks() if force else check_points(table)
        return sum(len(dpixels) for _, dpixels in blocks)
    except DataError as error:
        where = error.where.replace(str(copy), str(path))
        raise DataError(error.expected, found=error.found, where=where, mend=error.mend) from error


def _import_legend(path: Path, archive: Path) -> None:
    """Copy the names and colours of a label."""
    target = archive / "labels" / path.name
    if not target.exists():
        write_bytes(target, path.read_bytes())
    elif target.read_bytes() != path.read_bytes():
        raise DataError(
            "the archive's own names and colours of the label, or none",
            found="others",
            where=str(target),
            mend="Remove it to take over those of the source.",
        )


def _require_layout(source: Path, archive: Path) -> None:
    """Refuse an archive in which ``tiles/`` would hide the tiles that are there, and the source's own.

    A folder inside the source would be a part of it, and be imported itself the next time.
    """
    given, target = source.resolve(), archive.resolve()
    inside = source.is_dir() and given in target.parents
    if target == given or target in given.parents or inside:
        raise DataError(
            "an archive apart from the source",
            found="it inside the source" if inside else "the source inside it",
            where=str(archive),
            mend="Choose another --out.",
        )
    if archive.exists() and tiles_root(archive) == archive and find_tiles(archive, least=0):
        raise DataError(
            "an archive with its tiles in tiles/",
            found="tile folders elsewhere",
            where=str(archive),
            mend="Move them into tiles/, or choose another --out.",
        )


@contextmanager
def _workplace(archive: Path) -> Iterator[Path]:
    """Hold the archive's only place for unfinished things; without ``tiles/`` it would be read."""
    (archive / "tiles").mkdir(parents=True, exist_ok=True)
    work = archive / _WORK
    work.mkdir(parents=True, exist_ok=True)
    try:
        # Beside the work, which is removed: a lock that is deleted while held protects nobody.
        with FileLock(archive / ".import.lock", timeout=0):
            yield work
            shutil.rmtree(work, ignore_errors=True)
    except Timeout as error:
        raise StageBusy(
            "no other writer",
            found="a process that imports into the same archive",
            where=str(archive),
            mend="Wait for it, or choose another --out.",
        ) from error


@contextmanager
def _listed(key: str, report: ImportReport) -> Iterator[None]:
    """List what goes wrong instead of stopping."""
    try:
        yield
    except (TesseraError, OSError, ValueError) as error:
        report.failed[key] = str(error)
        say(f"{key}: failed: {error}")
