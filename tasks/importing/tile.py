"""Import one tile folder: open it, normalise it, write it aside, check it, give it its place.

The folder's name carries the size of the tile, ``<xmin>_<ymin>_<xmax>_<ymax>`` in pixels. At the edge
of a region the public stacker clips the name and leaves the arrays padded with zeros to a full tile;
here the arrays are cut to the name. Every image is looked at while it is copied: if anything but
zeros would be lost, the tile is refused.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.embedding.plausibility import check_tile
from tasks.errors import DataError
from tasks.files import sha256_of, sync_folder, sync_tree, write_json
from tasks.importing.arrays import (
    KINDS,
    changes_of,
    check_shape,
    open_array,
    order_of,
    refusal,
    write_array,
)
from tasks.importing.rasters import copy_label, copy_region
from tasks.tiles import OPTICAL, RADAR, REGION, SOURCE, Array, TileRef, read_tile

FORMAT = "tessera-import/1"
_NAME = re.compile(r"^(\d+)_(\d+)_(\d+)_(\d+)$")


@dataclass(frozen=True, slots=True)
class TileJob:
    """One tile and where it goes."""

    ref: TileRef
    """The tile in the source."""
    labels: dict[str, Path]
    """Its label rasters, by label name."""
    record: dict[str, Any]
    """What the source says about the origin of its data, kept as it is."""
    key: str
    """Path of the tile below ``tiles/`` of the archive."""
    archive: Path
    force: bool
    """Leave out the check of what the numbers mean."""

    @property
    def final(self) -> Path:
        """The tile's folder in the archive."""
        return self.archive / "tiles" / self.key

    def sources(self) -> dict[str, Path]:
        """Return the files that the tile is made from, by name: its own, and ``labels/<label>``."""
        own = {path.name: path for path in sorted(self.ref.folder.iterdir()) if path.is_file()}
        return own | {f"labels/{name}": path for name, path in self.labels.items()}


@dataclass(slots=True)
class Opened:
    """The arrays of a tile, and what will be changed in them."""

    arrays: dict[str, Array]
    """By file name, without orbits that have no date."""
    padded: tuple[int, int]
    """Height and width of the arrays."""
    size: tuple[int, int]
    """Height and width of the tile."""
    changes: list[str] = field(default_factory=list)


def import_tile(job: TileJob, build: Path) -> list[str] | None:
    """Put a tile into the archive.

    Args:
        job: The tile.
        build: Folder to build it in, on the disk of the archive; emptied first.

    Returns:
        What was changed on the way; None if the tile was there already, made from the same files.

    Raises:
        DataError: The tile cannot be imported, or another one of its name is there.
    """
    stamps = _stamps(job)  # before the digests, which are of the same bytes then
    digests = {name: sha256_of(path) for name, path in job.sources().items()}
    if job.final.exists():
        _require_same(job, digests)
        return None
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    opened = open_source(job.ref)
    _write_arrays(opened, build)
    _write_region(job, opened, build)
    _check(job, build)
    _write_labels(job, opened)
    if _stamps(job) != stamps:
        raise refusal(job.ref.name, "files that stay as they are", "a change while they were read")
    facts = {"format": FORMAT, "tile": job.ref.key, "files": digests, "changes": opened.changes}
    write_json(build / SOURCE, job.record | {"imported": facts | {"forced": job.force}})
    sync_tree(build)
    job.final.parent.mkdir(parents=True, exist_ok=True)
    build.rename(job.final)
    sync_folder(job.final.parent)
    return opened.changes


def open_source(ref: TileRef) -> Opened:
    """Open the arrays of a tile folder and find its size.

    Raises:
        DataError: An array is missing, of another kind, or too small for the folder's name.
    """
    arrays = {name: open_array(ref.folder / name) for name in OPTICAL}
    bands = arrays["bands.npy"]
    if bands.ndim != 4:
        raise refusal("bands.npy", "shape (T, H, W, 10)", f"{bands.shape}")
    padded = (int(bands.shape[1]), int(bands.shape[2]))
    for name in OPTICAL:
        check_shape(name, arrays[name], None if name == OPTICAL[0] else len(bands), padded)
    opened = Opened(arrays, padded, _size_of(ref.name, padded))
    for orbit in RADAR:
        _open_orbit(ref, orbit, opened)
    for name, array in opened.arrays.items():
        opened.changes += changes_of(name, array)
    if opened.size != opened.padded:
        before, after = (f"{height} x {width} px" for height, width in (padded, opened.size))
        opened.changes.append(f"cut from {before} to {after}: only zeros beyond the folder's name")
    return opened


def _open_orbit(ref: TileRef, orbit: str, opened: Opened) -> None:
    names = (f"{orbit}.npy", f"{orbit}_doy.npy")
    if not any((ref.folder / name).exists() for name in names):
        return
    values, days = (open_array(ref.folder / name) for name in names)
    if not len(values) and not len(days):
        opened.changes.append(f"{orbit}: left out, it has no date")
        return
    check_shape(names[0], values, None, opened.padded)
    check_shape(names[1], days, len(values), opened.padded)
    opened.arrays |= dict(zip(names, (values, days), strict=True))


def _size_of(name: str, padded: tuple[int, int]) -> tuple[int, int]:
    """Return height and width as the folder's name gives them; those of the arrays where none."""
    if not (found := _NAME.match(name)):
        return padded
    left, top, right, bottom = map(int, found.groups())
    size = (bottom - top, right - left)
    if not (0 < size[0] <= padded[0] and 0 < size[1] <= padded[1]):
        raise refusal(
            name,
            f"arrays of at least the {size[0]} x {size[1]} px that the folder's name gives",
            f"{padded[0]} x {padded[1]} px",
        )
    return size


def _write_arrays(opened: Opened, build: Path) -> None:
    for series, days_name in _series(opened):
        order = order_of(days_name, opened.arrays[days_name])
        if (np.diff(order) < 0).any():
            opened.changes.append(f"{days_name}: dates sorted, and with them {', '.join(series)}")
        for name in (*series, days_name):
            write_array(build / name, opened.arrays[name], order=order, size=opened.size)


def _series(opened: Opened) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the image arrays of each series that is there, and its days."""
    yield OPTICAL[:2], OPTICAL[2]
    for orbit in RADAR:
        if f"{orbit}.npy" in opened.arrays:
            yield (f"{orbit}.npy",), f"{orbit}_doy.npy"


def _write_region(job: TileJob, opened: Opened, build: Path) -> None:
    region = job.ref.folder / REGION
    if region.exists() and copy_region(
        region, build / REGION, padded=opened.padded, size=opened.size
    ):
        opened.changes.append(f"{REGION}: cut")
    known = {*KINDS, REGION, SOURCE}
    others = [name for name in job.sources() if name not in known and "/" not in name]
    opened.changes += [f"{name}: left out, no file of a tile" for name in others]


def _write_labels(job: TileJob, opened: Opened) -> None:
    """Copy the labels of a tile that is right, before it gets its place.

    A crash leaves a label without its tile, which the next run finds again.
    """
    for name, path in job.labels.items():
        target = job.archive / "labels" / f"{job.key}_{name}.tif"
        if done := copy_label(path, target, padded=opened.padded, size=opened.size):
            opened.changes.append(f"label {name}: {done}")


def _check(job: TileJob, build: Path) -> None:
    """Hold what was written against the strict reader and against what a tile can be."""
    try:
        tile = read_tile(TileRef(job.key, build))
        if not job.force:
            check_tile(tile)
    except DataError as error:  # its advice names the folder that is being built
        where = error.where.removesuffix(f" of tile {job.key}")
        mend = "Mend it in the source, or import with --force if it is right."
        raise DataError(error.expected, found=error.found, where=where, mend=mend) from error


def _require_same(job: TileJob, digests: dict[str, str]) -> None:
    """Refuse a tile whose name another one has; it is never overwritten."""
    try:
        known = json.loads((job.final / SOURCE).read_text())["imported"]["files"]
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if known != digests:
        raise DataError(
            "no other tile of this name in the archive",
            found="one that was not imported" if known is None else "one made from other files",
            where=str(job.final),
            mend="Remove that folder, or import into another archive.",
        )


def _stamps(job: TileJob) -> dict[str, tuple[int, int]]:
    """Return size and time of every source file: a change in between would mix two tiles."""
    found = {name: path.stat() for name, path in job.sources().items()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
