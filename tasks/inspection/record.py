"""JSON records of ours: a validation's verdict, an archive's catalogue, the origin of a tile."""

import json
from pathlib import Path
from typing import Any

from tasks.inspection.finding import Finding, Row

VERDICT = "validation verdict"
CATALOGUE = "catalogue of an archive"
ORIGIN = "record of origin"

_FIELDS = {
    VERDICT: ({"success", "checks", "failures", "suite"},),
    CATALOGUE: ({"tiles", "tables", "legends"},),
    ORIGIN: ({"imported"}, {"normalisation"}, {"source"}, {"points_sha256", "cells"}),
}


def is_record(path: Path, kind: str) -> bool:
    """Return whether a JSON file has the fields of a kind."""
    content = _read(path)
    if "model" in content:  # an embedding's record names its source files too
        return False
    return any(fields <= content.keys() for fields in _FIELDS[kind])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def describe_verdict(path: Path) -> Finding:
    """Show how a validation ended, with every failure."""
    content = _read(path)
    facts: Row = {
        "passed": content["success"],
        "expectations": len(content["checks"]),
        "values judged": sum(check["judged"] for check in content["checks"]),
        "failures": len(content["failures"]),
        "suite": content["suite"],
        "rows": content.get("tables", {}),
    }
    if "reference" in content:
        facts["reference"] = content["reference"]
    failures = [
        {name: failure[name] for name in ("tile", "sensor", "band", "expectation", "found")}
        for failure in content["failures"]
    ]
    return Finding(VERDICT, str(path), facts, {"Failures": failures} if failures else {})


def describe_catalogue(path: Path) -> Finding:
    """Show what ``ingest`` found in an archive."""
    content = _read(path)
    tiles = [
        {
            "tile": tile["key"],
            "year": tile["year"] or None,
            "files": len(tile["files"]),
            "bytes": sum(facts["size"] for facts in tile["files"].values()),
            "labels": sorted(tile["labels"]),
        }
        for tile in content["tiles"]
    ]
    tables = [
        {name: table[name] for name in ("name", "year", "rows", "size", "sha256")}
        for table in content["tables"]
    ]
    facts: Row = {"tiles": len(tiles), "point tables": len(tables)}
    facts["legends"] = sorted(content["legends"])
    found = {"Tiles": tiles} if tiles else {}
    return Finding(
        CATALOGUE, str(path), facts, found | ({"Point tables": tables} if tables else {})
    )


def describe_origin(path: Path) -> Finding:
    """Show where data come from, whatever their maker wrote down; lists become tables."""
    content = _read(path)
    tables: dict[str, list[Row]] = {}
    facts = without_lists(content, tables)
    return Finding(ORIGIN, str(path), facts, tables)


def without_lists(content: Row, tables: dict[str, list[Row]], above: str = "") -> Row:
    """Return a record in which each long list is a count, and put what was in it into ``tables``.

    Long lists are those of objects, and objects that hold digests by file name.
    """
    facts: Row = {}
    for name, value in content.items():
        place = f"{above}{name}"
        if isinstance(value, dict) and name == "files":
            tables[place] = [{"file": file, "sha256": digest} for file, digest in value.items()]
        elif isinstance(value, dict):
            facts[name] = without_lists(value, tables, f"{place}.")
            continue
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            columns = list(dict.fromkeys(key for item in value for key in item))
            tables[place] = [{key: _cell(item.get(key)) for key in columns} for item in value]
        else:
            facts[name] = value
            continue
        facts[name] = len(value)
    return facts


def _cell(value: Any) -> Any:
    """Return a value of a list's object; what is nested deeper is counted."""
    return len(value) if isinstance(value, dict | list) else value
