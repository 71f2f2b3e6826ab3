"""Which pixels of an archive carry evidence, and which of them belong together.

The one idea: groups (parcels, or spatial blocks where no parcel is known) are numbered once, over
all tiles, years and labels. So a group has the same number in every task, nothing that one task
learns about a piece of ground is a secret of another, and a bootstrap can draw the groups of all
tasks jointly.

A share of the groups is set apart for the probe that ranks checkpoints while a training runs. A score
must not be reported on ground that chose the model.

A pixel without any observation carries no evidence: no model has an embedding for it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from models.hashing import hash_u64, uniform
from tasks.archive import Archive
from tasks.errors import DataError
from tasks.settings.products import ProbeParams
from tasks.tiles import Array, read_label_raster

GROUP_LABEL = "parcel"
"""The raster that says what a group is; it is no task."""
_APART = 0x50524F42  # keeps the draw of the probe's groups apart from that of its d-pixels

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ground:
    """Evidence and groups of all tiles of an archive."""

    archive: Archive
    block_px: int
    place: tuple[int, ...]
    """Per tile: number of its piece of ground, the same in every year."""
    usable: tuple[Flags, ...]
    """Per tile (H, W): inside the tile's region, and observed at least once by any sensor. A tile
    without labels is not looked at and has none."""
    names: Ints
    """Parcel and block numbers that occur at labelled pixels, rising."""
    number: Ints
    """The group of each name, from 0."""

    def groups(self, index: int, rows: Ints) -> Ints:
        """Return the groups of labelled pixels (flat indices) of a tile."""
        names = _names(self.archive, index, self.place[index], self.block_px)[rows]
        return np.asarray(self.number[np.searchsorted(self.names, names)])

    def of_probe(self, probe: ProbeParams) -> Flags:
        """Return, for each group, whether it belongs to the probe and not to the evaluation.

        Drawn by hash of its smallest name, so that a parcel does not change sides when tiles or
        labels are added to the archive.
        """
        smallest = np.full(int(self.number.max(initial=-1)) + 1, np.iinfo(np.int64).max)
        np.minimum.at(smallest, self.number, self.names)
        return np.asarray(uniform(hash_u64(probe.seed, _APART, smallest)) < probe.share)


def survey_ground(archive: Archive, block_px: int) -> Ground:
    """Find the usable pixels of all tiles, and join the groups that years share.

    Groups that lie on the same labelled piece of ground in different years are one group, in
    whatever label: parcels are renumbered and redrawn between years.

    Args:
        archive: The archive, open.
        block_px: Side of the blocks that stand for parcels where there are none, in pixels.
    """
    usable = tuple(
        tile.region & archive.observed(index) if entry.labels else np.zeros(tile.shape, bool)
        for index, (entry, tile) in enumerate(
            zip(archive.catalogue.entries, archive.tiles, strict=True)
        )
    )
    place = _places(archive)
    links = [
        _links_of(archive, number, np.flatnonzero(place == number).tolist(), usable, block_px)
        for number in range(int(place.max(initial=-1)) + 1)
    ]
    pairs = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *links]), axis=0)
    names, at = np.unique(pairs, return_inverse=True)
    start, end = at.reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (start, end)), shape=(len(names), len(names)))
    number = np.zeros(0, np.int64)
    if len(names):
        number = connected_components(graph, directed=False)[1].astype(np.int64)
    return Ground(archive, block_px, tuple(place.tolist()), usable, names, number)


def _links_of(
    archive: Archive,
    place: int,
    members: list[int],
    usable: tuple[Flags, ...],
    block_px: int,
) -> Ints:
    """Return (n, 2) names on the same pixel of one place; each name also with itself."""
    rows, names = [], []
    for index in members:
        here = np.flatnonzero(_labelled(archive, index) & usable[index])
        rows.append(here)
        names.append(_names(archive, index, place, block_px)[here])
    row, name = np.concatenate(rows), np.concatenate(names)
    order = np.argsort(row, kind="stable")
    same = np.flatnonzero(np.diff(row[order]) == 0)
    shared = np.stack([name[order[same]], name[order[same + 1]]], axis=1)
    return np.unique(np.concatenate([shared, np.stack([name, name], axis=1)]), axis=0)


def _labelled(archive: Archive, index: int) -> Flags:
    """Return (H, W): has a value in at least one label that is a task."""
    found = np.zeros(archive.tiles[index].shape, bool)
    for name in archive.catalogue.label_names():
        if name != GROUP_LABEL and (label := read_label(archive, index, name)) is not None:
            found |= label[1]
    return found


def _places(archive: Archive) -> Ints:
    """Return the number of each tile's piece of ground."""
    names = [place_of(entry.key) for entry in archive.catalogue.entries]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def place_of(key: str) -> str:
    """Name the ground of a tile: its key without the parent folders that say a year.

    The tile's own name stays, even if it looks like a year.
    """
    *parents, name = key.split("/")
    return "/".join([*(part for part in parents if not _is_year(part)), name])


def _is_year(part: str) -> bool:
    return len(part) == 4 and part.isascii() and part.isdigit()


def _names(archive: Archive, index: int, place: int, block_px: int) -> Ints:
    """Return the parcel or block number of each pixel (flat) of a tile.

    Decision: a parcel number means the same parcel in every tile and year. Parcels go on across
    tile borders, so anything less could leak; numbers that only count within a tile merge groups,
    which costs some data and leaks nothing. Pixels outside parcels belong to their block.
    """
    height, width = archive.tiles[index].shape
    down, along = np.divmod(np.arange(height * width), width)
    block = (down // block_px) * -(-width // block_px) + along // block_px
    blocks: Ints = ((place + 1) << 32) + block.astype(np.int64)
    parcel = read_label(archive, index, GROUP_LABEL)
    if parcel is None:
        return blocks
    numbers, known = parcel[0].ravel(), (parcel[1] & (parcel[0] > 0)).ravel()
    return np.asarray(np.where(known, np.where(known, numbers, 0).astype(np.int64), blocks))


def read_label(archive: Archive, index: int, name: str) -> tuple[Array, Flags] | None:
    """Read a label of a tile.

    Returns:
        Values (H, W) and where they are known: not nodata, and neither 0 (integers) nor NaN
        (floats). ``None`` where the tile has no such label.

    Raises:
        DataError: Not the shape of the tile, or a negative integer that is not nodata.
        DigestMismatch: The raster changed since the archive was ingested.
    """
    path, shape = archive.catalogue.label(index, name), archive.tiles[index].shape
    if path is None:
        return None
    values, usable = read_label_raster(path)
    if values.shape != shape:
        raise DataError(
            f"a label raster of the tile's shape {shape}",
            found=str(values.shape),
            where=str(path),
            mend="Put the labels on the tile's grid.",
        )
    if values.dtype.kind == "f":
        return values, usable & np.isfinite(values)
    if (values[usable] < 0).any():
        raise DataError(
            "class codes and parcel numbers of 0 or more",
            found=str(int(values[usable].min())),
            where=str(path),
            mend="If it stands for no label, declare it: gdal_edit.py -a_nodata VALUE FILE.",
        )
    return values, usable & (values != 0)
