"""A Parquet file: a point table with its observations, or the embeddings of one."""

from pathlib import Path

from tasks.files import sha256_of
from tasks.inspection.finding import Finding, Row, size_text
from tasks.inspection.tally import BlockTally
from tasks.points import columns_of, describe_points, open_points

POINTS = "point table"
EMBEDDINGS = "embeddings of a point table"
_MAGIC = b"PAR1"


def is_parquet(path: Path) -> bool:
    """Return whether a file begins as Parquet does."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def is_embeddings(path: Path) -> bool:
    """Return whether a Parquet file holds embeddings."""
    return is_parquet(path) and bool({"embedding", "codes"} & columns_of(path).keys())


def is_points(path: Path) -> bool:
    """Return whether a file is any other Parquet table; how it breaks the contract is said later."""
    return is_parquet(path) and not is_embeddings(path)


def describe_table(path: Path) -> Finding:
    """Read a point table to its end, a block at a time.

    Raises:
        DataError: The table breaks its contract.
    """
    table, tally = open_points(path), BlockTally()
    for _, dpixels in table.blocks():
        tally.add(dpixels)
    facts = _file_facts(path) | {"without any observation": tally.unobserved}
    return Finding(POINTS, str(path), facts, tally.tables() | {"Columns": _columns(path)})


def describe_embeddings(path: Path) -> Finding:
    """Describe the answer of a model to a point table."""
    return Finding(EMBEDDINGS, str(path), _file_facts(path), {"Columns": _columns(path)})


def _file_facts(path: Path) -> Row:
    rows, year = describe_points(path)
    return {
        "rows": rows,
        "year": year or None,
        "size": size_text(path.stat().st_size),
        "sha256": sha256_of(path),
    }


def _columns(path: Path) -> list[Row]:
    return [{"column": name, "type": kind} for name, kind in columns_of(path).items()]
