"""A finished job as a tile folder in the public layout, with the record of what it was made from.

The one idea: a tile folder appears whole or not at all, and a rerun gives the same bytes, so its
record holds no clock. ``source.json`` in it says all: the request, every item with its digest, what
was decided about it, and what could not be read.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from models.bands import S2_BANDS
from tasks.errors import DataError
from tasks.files import swap_folder, sync_tree, write_json
from tasks.stac.days import OPTICAL
from tasks.stac.jobs import Job
from tasks.stac.optical import BANDS, VALID
from tasks.stac.providers import ORBITS
from tasks.stac.radar import CODES
from tasks.stac.records import record_of
from tasks.stac.slots import Slots
from tasks.tiles import REGION, SOURCE, Array, TileRef, read_tile

_BLOCK_PX = 256


def finished(job: Job, out: Path) -> dict[str, Any] | None:
    """Return the record of the job's tile if it is there, whole, and lacks nothing that was to be read.

    Raises:
        DataError: A folder of that name is no tile of ingest; it is left alone.
    """
    folder = out / job.name
    if not folder.exists():
        return None
    try:
        record = dict(json.loads((folder / SOURCE).read_text()))
        is_ours = {"request", "dates", "unread"} <= record.keys()
    except (OSError, ValueError, TypeError):
        is_ours = False
    if not is_ours:
        raise DataError(
            "a free place for a tile",
            found="a folder that was not made by `tessera ingest`",
            where=str(folder),
            mend="Choose another --out, or move the folder away.",
        )
    is_done = record["request"] == job.key and not record["unread"]
    return record if is_done and _is_whole(folder, record) else None


def _is_whole(folder: Path, record: dict[str, Any]) -> bool:
    """Tell whether a tile folder has its region and the arrays of all dates that its record names."""
    if not (folder / REGION).is_file():  # one without is read as belonging to the tile everywhere
        return False
    try:
        tile = read_tile(TileRef(folder.name, folder))
    except DataError:
        return False
    found = {OPTICAL: len(tile.doys)}
    found |= {name.removeprefix("sar_"): len(doys) for name, (_, doys) in tile.radar.items()}
    return all(found.get(stream, 0) == len(dates) for stream, dates in record["dates"].items())


def write_tile(job: Job, out: Path) -> dict[str, Any]:
    """Build the tile of a job whose dates have all been read, and put it in its place.

    If no date saw anything there is no tile.

    Returns:
        The record.
    """
    record = record_of(job, out)
    if any(record["dates"].values()):
        streams = {stream: job.slots(out, stream) for stream in job.streams}
        built = job.folder(out) / "tile"
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir()
        _write_optical(job, built, streams.get(OPTICAL))
        for orbit in ORBITS:
            if orbit in streams and streams[orbit].kept():
                streams[orbit].place(CODES, built / f"sar_{orbit}.npy")
                _write_doys(built / f"sar_{orbit}_doy.npy", streams[orbit], "int16")
        write_region(job, built / REGION)
        write_json(built / SOURCE, record)
        sync_tree(built)
        (out / job.name).parent.mkdir(parents=True, exist_ok=True)
        swap_folder(built, out / job.name)
    return record


def _write_optical(job: Job, built: Path, slots: Slots | None) -> None:
    if slots is not None and slots.kept():
        slots.place(BANDS, built / "bands.npy")
        slots.place(VALID, built / "masks.npy")
        _write_doys(built / "doys.npy", slots, "uint16")
    else:
        np.save(built / "bands.npy", np.zeros((0, *job.shape, len(S2_BANDS)), np.uint16))
        np.save(built / "masks.npy", np.zeros((0, *job.shape), np.uint8))
        np.save(built / "doys.npy", np.zeros(0, np.uint16))


def _write_doys(path: Path, slots: Slots, dtype: str) -> None:
    np.save(path, np.array([day.timetuple().tm_yday for day in slots.kept()], dtype))


def write_region(job: Job, path: Path) -> None:
    """Write which pixels belong to the tile, and where they lie."""
    window = job.target.window
    height, width = window.shape
    region: Array = job.target.region.reshape(window.shape).astype(np.uint8)
    options = {"compress": "LZW", "tiled": True, "blockxsize": _BLOCK_PX, "blockysize": _BLOCK_PX}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8",
        crs=str(window.crs), transform=window.transform, **options,
    ) as raster:  # fmt: skip
        raster.write(region, 1)
