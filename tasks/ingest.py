"""Admit an archive: list its tiles, labels and point tables, every file by size and digest.

The archive is referenced, not copied: the catalogue's digests are what the later stages read by, so
a file that changes afterwards is noticed before it is used. What the arrays hold is judged by
``tasks.validate``.
"""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tasks.errors import DigestMismatch
from tasks.files import canonical_json, sha256_of, write_json
from tasks.params import Params, read_params
from tasks.points import FOLDER, describe_points, find_tables
from tasks.progress import track
from tasks.settings.section import Section
from tasks.stage import Stage, run_stage, stage_main
from tasks.tiles import TileRef, find_labels, find_tiles, tiles_root
from tasks.workspace import Workspace

CATALOGUE = "catalogue.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tile folder of the archive."""

    key: str
    """``<year>/<tile>``: the tile's path below the tiles' root."""
    year: int
    """Calendar year, 0 where the archive does not say."""
    files: dict[str, dict[str, Any]]
    """Size in bytes and SHA-256 of each file of the tile folder."""
    labels: dict[str, dict[str, Any]]
    """Path below the archive, size and SHA-256 of each label raster, by label name."""


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One point table of the archive, ``points/<name>.parquet``."""

    name: str
    """File name without ``.parquet``."""
    year: int
    """Calendar year that all rows name in a column ``year``; 0 where there is none or several."""
    rows: int
    """D-pixels in it."""
    sha256: str
    """Digest of the file."""
    size: int
    """Size of the file in bytes."""

    @property
    def path(self) -> str:
        """Path below the archive."""
        return f"{FOLDER}/{self.name}.parquet"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The sources of an archive in a fixed order, which numbers their d-pixels: tiles, then tables.

    Its length is the number of tiles.
    """

    archive: Path
    entries: tuple[Entry, ...]
    legends: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Path below the archive, size and SHA-256 of each label's names and colours, by label name."""
    tables: tuple[TableEntry, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def tile(self, index: int) -> TileRef:
        """Return where a tile lies, after comparing its bytes with the catalogue.

        Raises:
            DigestMismatch: A file of the tile changed since the archive was ingested.
        """
        entry = self.entries[index]
        ref = TileRef(entry.key, tiles_root(self.archive) / entry.key)
        added = {path.name for path in _files_of(ref.folder)} - entry.files.keys()
        if added:
            raise DigestMismatch(
                "only the files that were ingested",
                found=", ".join(sorted(added)),
                where=str(ref.folder),
                mend="The archive changed after ingest. Remove them, or run: dvc repro ingest",
            )
        for name, recorded in entry.files.items():
            _check(ref.folder / name, recorded)
        return ref

    @property
    def num_sources(self) -> int:
        """Number of tiles and tables together."""
        return len(self.entries) + len(self.tables)

    def table(self, number: int) -> Path:
        """Return where point table ``number`` lies, after comparing its bytes with the catalogue.

        Raises:
            DigestMismatch: The table changed since the archive was ingested.
        """
        entry = self.tables[number]
        path = self.archive / entry.path
        _check(path, {"sha256": entry.sha256})
        return path

    def label(self, index: int, name: str) -> Path | None:
        """Return a label raster of a tile, verified; ``None`` where the tile has no such label."""
        recorded = self.entries[index].labels.get(name)
        if recorded is None:
            return None
        path: Path = self.archive / recorded["path"]
        _check(path, recorded)
        return path

    def legend(self, name: str) -> Path | None:
        """Return a label's names and colours, verified; ``None`` where the archive has none."""
        recorded = self.legends.get(name)
        if recorded is None:
            return None
        path: Path = self.archive / recorded["path"]
        _check(path, recorded)
        return path

    def first_pixel_id(self, index: int) -> int:
        """Return the ``pixel_id`` of a source's pixel or row 0: its index in the upper 32 bits.

        Tiles are counted first: table ``k`` is source ``len(catalogue) + k``.
        """
        return index << 32

    def label_names(self) -> list[str]:
        """Return the names of all labels of the archive, sorted."""
        return sorted({name for entry in self.entries for name in entry.labels})


def _check(path: Path, recorded: dict[str, Any]) -> None:
    found = sha256_of(path) if path.is_file() else "no such file"
    if found != recorded["sha256"]:
        raise DigestMismatch(
            f"sha256 {recorded['sha256'][:12]}",
            found=found[:12],
            where=str(path),
            mend="The archive changed after ingest. Restore it, or run: dvc repro ingest",
        )


def make_catalogue(archive: Path) -> list[Entry]:
    """List an archive's tiles and labels with the digest of every file.

    Raises:
        DataError: Neither a tile folder nor a point table there.
    """
    refs = find_tiles(archive, least=0 if find_tables(archive) else 1)
    return [
        _entry(archive, ref) for ref in track(refs, label="ingest", total=len(refs), unit="tiles")
    ]


def _entry(archive: Path, ref: TileRef) -> Entry:
    files = {path.name: _describe(path) for path in _files_of(ref.folder)}
    labels = {
        name: _describe(path) | {"path": path.relative_to(archive).as_posix()}
        for name, path in find_labels(archive, ref).items()
    }
    return Entry(ref.key, ref.year, files, labels)


def make_tables(archive: Path) -> list[TableEntry]:
    """List an archive's point tables.

    Raises:
        DataError: A file ``points/*.parquet`` is not Parquet.
    """
    return [_table_entry(path) for path in find_tables(archive)]


def _table_entry(path: Path) -> TableEntry:
    rows, year = describe_points(path)
    return TableEntry(path.stem, year, rows, **_describe(path))


def find_legends(archive: Path) -> dict[str, dict[str, Any]]:
    """Describe every ``labels/<label>.json`` of an archive, by label name."""
    return {
        path.stem: _describe(path) | {"path": path.relative_to(archive).as_posix()}
        for path in sorted((archive / "labels").glob("*.json"))
    }


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _describe(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(path), "size": path.stat().st_size}


def read_catalogue(workspace: Workspace, folder: Path) -> Catalogue:
    """Read the catalogue that ``ingest`` wrote into its output ``folder``.

    Where the archive lies is a setting, not content: moved, it is still the same archive.
    """
    content = json.loads((folder / CATALOGUE).read_text())
    archive = workspace.root / read_params(workspace.params).ingest.archive
    return Catalogue(
        archive,
        tuple(Entry(**entry) for entry in content["tiles"]),
        content["legends"],
        tuple(TableEntry(**entry) for entry in content["tables"]),
    )


def ingest(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    archive = workspace.root / params.ingest.archive
    entries, tables = make_catalogue(archive), make_tables(archive)
    content = {
        "tiles": [asdict(entry) for entry in entries],
        "tables": [asdict(entry) for entry in tables],
        "legends": find_legends(archive),
    }
    digest = sha256(canonical_json(content).encode()).hexdigest()

    def body(stage: Stage) -> None:
        write_json(stage.build / CATALOGUE, content)
        stage.counts |= {
            "tiles": len(entries),
            "tables": len(tables),
            "table_rows": sum(table.rows for table in tables),
            "labels": sum(len(entry.labels) for entry in entries),
            "bytes_in": sum(f["size"] for entry in entries for f in entry.files.values())
            + sum(table.size for table in tables),
        }

    run_stage(
        "ingest",
        body,
        workspace=workspace,
        section=Section(),
        inputs={"archive": digest},
    )


if __name__ == "__main__":
    stage_main(ingest)
