"""An archive: its tiles by their headers, its labels and its point tables.

Only headers are read, so an archive of any size is listed at once; what the numbers are is asked of
one tile, or of ``tessera validate``.
"""

from pathlib import Path

from tasks.errors import DataError
from tasks.inspection.finding import Finding, Row, size_text
from tasks.inspection.tile import is_tile
from tasks.points import describe_points, find_tables
from tasks.tiles import OPTICAL, RADAR, TileRef, find_labels, find_tiles, read_tile

KIND = "archive"


def is_archive(path: Path) -> bool:
    """Return whether there are tile folders anywhere below a folder, or tables in ``points/``."""
    if not path.is_dir() or is_tile(path):
        return False
    names = (OPTICAL[0], *(f"{orbit}.npy" for orbit in RADAR))
    return bool(find_tables(path)) or any(next(path.rglob(name), None) for name in names)


def describe_archive(path: Path) -> Finding:
    """List what an archive holds."""
    refs = find_tiles(path, least=0)
    tiles = [_tile_row(path, ref) for ref in refs]
    tables = [_table_row(table) for table in find_tables(path)]
    facts: Row = {
        "tiles": len(refs),
        "years": sorted({ref.year for ref in refs if ref.year}),
        "tiles without a year": sum(not ref.year for ref in refs),
        "tiles that cannot be read": sum(bool(row["fault"]) for row in tiles),
        "pixels": sum(row["height"] * row["width"] for row in tiles if not row["fault"]),
        "labels": sorted({name for ref in refs for name in find_labels(path, ref)}),
        "point tables": len(tables),
        "rows of tables": sum(row["rows"] or 0 for row in tables),
    }
    found = {"Tiles": tiles} if tiles else {}
    return Finding(KIND, str(path), facts, found | ({"Point tables": tables} if tables else {}))


def _tile_row(archive: Path, ref: TileRef) -> Row:
    names = ("height", "width", "optical", "ascending", "descending")
    row: Row = {"tile": ref.key} | dict.fromkeys(names)
    row |= {"labels": len(find_labels(archive, ref)), "size": _size_of(ref.folder), "fault": ""}
    try:
        tile = read_tile(ref)
    except DataError as error:
        return row | {"fault": f"expected {error.expected}; found {error.found}"}
    row["height"], row["width"] = tile.shape
    row["optical"] = len(tile.doys)
    for orbit in RADAR:
        dates = len(tile.radar[orbit][1]) if orbit in tile.radar else 0
        row[orbit.removeprefix("sar_")] = dates
    return row


def _table_row(path: Path) -> Row:
    row: Row = {"table": path.name, "rows": None, "year": None, "fault": ""}
    try:
        rows, year = describe_points(path)
    except DataError as error:
        return row | {"size": size_text(path.stat().st_size), "fault": error.found}
    return row | {"rows": rows, "year": year or None, "size": size_text(path.stat().st_size)}


def _size_of(folder: Path) -> str:
    return size_text(sum(path.stat().st_size for path in folder.iterdir() if path.is_file()))
