"""What an output was made from, as JSON that says all and holds no clock.

The one idea: the record is enough to find every byte again: the request, and of each date the items
with their addresses and digests, what was decided about the offset, and what could not be read. A
rerun gives the same record. No address in it has a query, where signatures and tokens stand.
"""

import json
import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from tasks.errors import DataError
from tasks.files import sha256_of
from tasks.stac.days import OPTICAL
from tasks.stac.jobs import Job


def record_of(job: Job, out: Path) -> dict[str, Any]:
    """Return what a job was made from, once all its dates have been read."""
    receipts = {stream: job.slots(out, stream).receipts() for stream in job.streams}
    window, source = job.target.window, job.source
    found = [(stream, receipt) for stream, dates in receipts.items() for receipt in dates]
    return {
        "source": _archive(job),
        "provider": source.provider.name,
        "catalogue": source.catalogue,
        "collections": list(source.collections),
        "request": job.key,
        "cell": job.cell.name,
        "year": job.year,
        "crs": str(window.crs),
        "transform": list(window.transform)[:6],
        "shape": list(window.shape),
        "region_px": int(np.count_nonzero(job.target.region)),
        "s1_scale": source.scale,
        "dates": {
            stream: [
                {"date": r.day, "clear_px": r.clear_px, "items": r.items}
                for r in dates
                if r.has_data
            ]
            for stream, dates in receipts.items()
        },
        "dates_without_data": {
            stream: [r.day for r in dates if not r.has_data] for stream, dates in receipts.items()
        },
        "unread": [
            {"stream": stream, "date": receipt.day, "id": name, "reason": reason}
            for stream, receipt in found
            for name, reason in receipt.unread.items()
        ],
        "left_out": dict(job.plan.left_out),
        "warnings": [line for _, receipt in found for line in receipt.warnings],
        "versions": {
            "gdal": rasterio.__gdal_version__,
            **{name: version(name) for name in ("numpy", "odc-geo", "rasterio")},
        },
    }


def finished_table(path: Path, keys: list[str], digest: str) -> list[dict[str, Any]] | None:
    """Return the records of a point table that is as it was made and lacks nothing; else ``None``.

    Args:
        path: The table.
        keys: Of the jobs that it must have been made from.
        digest: SHA-256 of the table of points.

    Raises:
        DataError: A file of that name is no table of ingest; it is left alone.
    """
    if path.exists() and not source_of(path).exists():
        raise DataError(
            "a free place for a table",
            found="a file that was not made by `tessera ingest`",
            where=str(path),
            mend="Choose another --out, or move the file away.",
        )
    try:
        content = json.loads(source_of(path).read_text())
        records = list(content["cells"])
        is_same = content["points_sha256"] == digest and [r["request"] for r in records] == keys
        is_done = is_same and not any(r["unread"] for r in records)
        return records if is_done and content["table_sha256"] == sha256_of(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def source_of(table: Path) -> Path:
    """Return where it is written what a point table was made from."""
    return table.with_suffix(".source.json")


def remove_work(job: Job, out: Path, record: dict[str, Any]) -> None:
    """Remove unfinished work of the job's cell and year, unless a scene is to be tried again."""
    if record["unread"]:
        return
    cell = job.folder(out).parent
    shutil.rmtree(cell, ignore_errors=True)
    for folder in (cell.parent, cell.parent.parent):
        with suppress(OSError):  # others' work is in it
            folder.rmdir()


def _archive(job: Job) -> str:
    """Return the name of the archive: the provider's, or what the forms of the scenes say."""
    provider = job.source.provider
    found = {
        provider.optical_form(scene).source
        for day in job.plan.days[OPTICAL]
        for copies in day.captures
        for scene in copies
    }
    if len(found) == 1:
        return found.pop()
    return provider.optical[0].source if provider.api else provider.name
