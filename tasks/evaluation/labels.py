"""Downstream tasks from the label rasters of an archive, split so that nothing leaks.

The one idea: the unit of a split is a group (a parcel, or a spatial block where no parcel is known)
over all years, never a pixel. A raster named ``parcel`` says what a group is; every other integer
raster is a classification (0 = no label), every float raster a regression (NaN = no label).

Everything is drawn by hash of the pixel's address, so the order of files changes nothing. What
cannot be scored (a rare class, a task with too few groups) is left out and named, never guessed.
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from models.hashing import hash_u64
from tasks.archive import Archive
from tasks.errors import DataError
from tasks.params import EvaluateParams
from tasks.tiles import Array, read_raster

GROUP_LABEL = "parcel"
_QUARTILES = (0.25, 0.5, 0.75)
_FEWEST_FOLDS = 2

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Task:
    """One downstream task: which d-pixels, what is true of them, and who belongs together."""

    name: str
    kind: Literal["classification", "regression"]
    tile: Ints
    """(n,) index of the tile in the catalogue."""
    row: Ints
    """(n,) flat pixel index in the tile, row-major."""
    group: Ints
    """(n,) group; no group is ever in both train and test."""
    value: Array
    """(n,) class code (int64) or target (float64)."""
    folds: int
    """Number of folds; fewer than asked for where groups are few."""
    left_out: dict[str, str]
    """Why a class is not part of the task, by class code."""

    @property
    def classes(self) -> tuple[int, ...]:
        """Class codes, rising; empty for a regression."""
        return tuple(np.unique(self.value).tolist()) if self.kind == "classification" else ()

    @property
    def stratum(self) -> Ints:
        """(n,) what the folds are balanced by: the class, or the quartile of the target."""
        if self.kind == "classification":
            return np.searchsorted(np.array(self.classes), self.value).astype(np.int64)
        return np.searchsorted(np.quantile(self.value, _QUARTILES), self.value).astype(np.int64)

    def take(self, chosen: Array) -> "Task":
        """Return the task on some of its d-pixels, in the given order."""
        return replace(
            self,
            tile=self.tile[chosen],
            row=self.row[chosen],
            group=self.group[chosen],
            value=self.value[chosen],
        )

    def digest(self) -> str:
        """SHA-256 of everything that a score on this task depends on but the features."""
        content = sha256(f"{self.name} {self.kind} {self.folds}".encode())
        for array in (self.tile, self.row, self.group, self.value):
            content.update(np.ascontiguousarray(array).astype("<f8").tobytes())
        return content.hexdigest()


@dataclass(frozen=True, slots=True)
class TaskTooSmall:
    """A label that cannot be scored."""

    name: str
    reason: str


def read_tasks(archive: Archive, section: EvaluateParams) -> list[Task | TaskTooSmall]:
    """Make one task of each label of the archive, each on a drawn set of d-pixels.

    Args:
        archive: The archive, open.
        section: Sizes of the drawn sets and of the folds.

    Raises:
        DataError: A label raster does not have the shape of its tile.
        DigestMismatch: A label or a tile changed since the archive was ingested.
    """
    names = [name for name in archive.catalogue.label_names() if name != GROUP_LABEL]
    return [_draw(_read_task(archive, name, section), section) for name in names]


def _read_task(archive: Archive, name: str, section: EvaluateParams) -> Task:
    """Collect every labelled pixel of every tile."""
    catalogue = archive.catalogue
    places = {
        place: n for n, place in enumerate(sorted({_place(e.key) for e in catalogue.entries}))
    }
    parts: list[tuple[Array, ...]] = []
    for index, entry in enumerate(catalogue.entries):
        label = _read_label(archive, index, name)
        if label is None:
            continue
        known = np.isfinite(label) if label.dtype.kind == "f" else label != 0
        row = np.flatnonzero(known & archive.tiles[index].region)
        place = places[_place(entry.key)]
        group = _groups(archive, index, place, section.block_px)
        address = np.full(len(row), place << 40) + row
        parts.append((np.full(len(row), index), row, group[row], label.ravel()[row], address))
    tile, row, group, value, address = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    regression = value.dtype.kind == "f"
    return Task(
        name,
        "regression" if regression else "classification",
        tile.astype(np.int64),
        row.astype(np.int64),
        _join_years(group, address),
        value.astype(np.float64 if regression else np.int64),
        section.folds,
        {},
    )


def _place(key: str) -> str:
    """Name the ground of a tile: its key without the year."""
    return "/".join(part for part in key.split("/") if not (len(part) == 4 and part.isdigit()))


def _read_label(archive: Archive, index: int, name: str) -> Array | None:
    path, shape = archive.catalogue.label(index, name), archive.tiles[index].shape
    if path is None:
        return None
    label = read_raster(path)
    if label.shape != shape:
        raise DataError(
            f"a label raster of the tile's shape {shape}",
            found=str(label.shape),
            where=str(path),
            mend="Put the labels on the tile's grid.",
        )
    return label


def _groups(archive: Archive, index: int, place: int, block_px: int) -> Ints:
    """Return a group number for each pixel of a tile.

    Decision: a parcel number means the same parcel in every tile and year. Parcels go on across
    tile borders, so anything less could leak; numbers that only count within a tile merge groups,
    which costs some data and leaks nothing. Pixels outside parcels belong to their block.
    """
    height, width = archive.tiles[index].shape
    down, along = np.divmod(np.arange(height * width), width)
    block = (down // block_px) * -(-width // block_px) + along // block_px
    blocks: Ints = ((place + 1) << 32) + block.astype(np.int64)
    parcel = _read_label(archive, index, GROUP_LABEL)
    if parcel is None:
        return blocks
    numbers = parcel.ravel().astype(np.int64)
    return np.asarray(np.where(numbers > 0, numbers, blocks))


def _join_years(group: Ints, address: Ints) -> Ints:
    """Merge groups that share a piece of ground in different years, and number them from 0."""
    names, number = np.unique(group, return_inverse=True)
    order = np.argsort(address, kind="stable")
    same = np.flatnonzero(np.diff(address[order]) == 0)
    pairs = number[order[same]], number[order[same + 1]]
    links = coo_array((np.ones(len(same)), pairs), shape=(len(names), len(names)))
    joined = np.asarray(connected_components(links, directed=False)[1], np.int64)
    return joined[number]


def _draw(task: Task, section: EvaluateParams) -> Task | TaskTooSmall:
    """Choose the classes, the number of folds and at most ``max_dpixels``, evenly over groups."""
    for folds in range(section.folds, _FEWEST_FOLDS - 1, -1):
        keep, left_out = _usable(task, folds, section.min_dpixels)
        if keep.any():
            kept = replace(task.take(np.flatnonzero(keep)), folds=folds, left_out=left_out)
            return kept.take(_evenly(kept, section.seed, section.max_dpixels))
    groups = len(np.unique(task.group))
    return TaskTooSmall(
        task.name,
        f"{len(task.value)} labelled d-pixels in {groups} groups do not give two classes (or a "
        f"target that varies) with {section.min_dpixels} d-pixels in {_FEWEST_FOLDS} groups",
    )


def _usable(
    task: Task, folds: int, min_dpixels: int
) -> tuple[npt.NDArray[np.bool_], dict[str, str]]:
    """Return which d-pixels can be scored with so many folds, and why a class cannot."""
    if task.kind == "regression":
        varies = len(task.value) >= min_dpixels and task.value.min() < task.value.max()
        enough = varies and len(np.unique(task.group)) >= folds
        return np.full(len(task.value), enough), {}
    left_out: dict[str, str] = {}
    keep = np.zeros(len(task.value), bool)
    for code in task.classes:
        of_class = task.value == code
        groups = len(np.unique(task.group[of_class]))
        if of_class.sum() < min_dpixels or groups < folds:
            left_out[str(code)] = f"{of_class.sum()} d-pixels in {groups} groups"
        else:
            keep |= of_class
    if len(task.classes) - len(left_out) < 2:
        return np.zeros(len(task.value), bool), left_out
    return keep, left_out


def _evenly(task: Task, seed: int, most: int) -> Ints:
    """Choose by hash, one d-pixel of every group in turn, until there are enough."""
    ticket = hash_u64(seed, task.tile, task.row)
    order = np.lexsort((ticket, task.group))
    sorted_group = task.group[order]
    starts = np.flatnonzero(np.diff(sorted_group, prepend=-1))
    turn = np.empty(len(order), np.int64)
    turn[order] = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return np.sort(np.lexsort((ticket, turn))[:most])
