"""Downstream tasks from the label rasters of an archive, split so that nothing leaks.

The one idea: the unit of a split is a group (a parcel, or a spatial block where no parcel is known)
over all years, never a pixel. A raster named ``parcel`` says what a group is; every other integer
raster is a classification (0 or nodata = no label), every float raster a regression (NaN or nodata
= no label).

Everything is drawn by hash of the pixel's address, so the order of files changes nothing. What
cannot be scored (a rare class, a task with too few groups) is left out and named, never guessed.
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.hashing import hash_u64
from tasks.errors import DataError
from tasks.evaluation.ground import GROUP_LABEL, Flags, Ground, Ints, read_label
from tasks.settings.products import EvaluateParams
from tasks.tiles import Array

_QUARTILES = (0.25, 0.5, 0.75)
_FEWEST_FOLDS = 2


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
    """(n,) group, numbered alike in all tasks; no group is ever in both train and test."""
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


def read_tasks(
    ground: Ground, section: EvaluateParams, groups: Flags | None = None
) -> list[Task | TaskTooSmall]:
    """Make one task of each label of the archive, each on a drawn set of observed d-pixels.

    Args:
        ground: The archive's, surveyed.
        section: Sizes of the drawn sets and of the folds.
        groups: Which groups may be drawn from; all if not given.

    Raises:
        DataError: A label raster is not of the shape of its tile, or has negative codes.
        DigestMismatch: A label or a tile changed since the archive was ingested.
    """
    names = [name for name in ground.archive.catalogue.label_names() if name != GROUP_LABEL]
    return [_draw(_read_task(ground, name, section, groups), section) for name in names]


def _read_task(ground: Ground, name: str, section: EvaluateParams, groups: Flags | None) -> Task:
    """Collect every labelled pixel with an observation of every tile."""
    parts: list[tuple[Array, ...]] = []
    for index in range(len(ground.archive.catalogue)):
        label = read_label(ground.archive, index, name)
        if label is None:
            continue
        values, known = label
        row = np.flatnonzero(known & ground.usable[index])
        group = ground.groups(index, row)
        if groups is not None:
            row, group = row[groups[group]], group[groups[group]]
        parts.append((np.full(len(row), index), row, group, values.ravel()[row]))
    if len({values.dtype.kind == "f" for *_, values in parts}) > 1:
        raise DataError(
            "integers (classes) in every tile, or floats (a quantity) in every tile",
            found="both",
            where=f"label {name}",
            mend="Write all rasters of this label with one kind of number.",
        )
    tile, row, group, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    regression = value.dtype.kind == "f"
    return Task(
        name,
        "regression" if regression else "classification",
        tile.astype(np.int64),
        row.astype(np.int64),
        group,
        value.astype(np.float64 if regression else np.int64),
        section.folds,
        {},
    )


def _draw(task: Task, section: EvaluateParams) -> Task | TaskTooSmall:
    """Choose the classes, the number of folds and at most ``max_dpixels``.

    What is asked of a class is asked of the drawn set: a class enters with at least
    ``min_dpixels`` drawn d-pixels, in at least as many groups as there are folds.
    """
    for folds in range(section.folds, _FEWEST_FOLDS - 1, -1):
        keep, left_out = _usable(task, folds, section)
        kept = replace(task.take(np.flatnonzero(keep)), folds=folds, left_out=left_out)
        drawn = kept.take(_evenly(kept, section.seed, section.max_dpixels))
        if len(drawn.row) and _usable(drawn, folds, section)[0].all():
            return drawn
    groups = len(np.unique(task.group))
    return TaskTooSmall(
        task.name,
        f"{len(task.value)} labelled and observed d-pixels in {groups} groups do not give two "
        f"classes (or a target that varies) with {section.min_dpixels} of {section.max_dpixels} "
        f"d-pixels in {_FEWEST_FOLDS} groups",
    )


def _usable(
    task: Task, folds: int, section: EvaluateParams
) -> tuple[npt.NDArray[np.bool_], dict[str, str]]:
    """Return which d-pixels can be scored with so many folds, and why a class cannot.

    Where ``max_dpixels`` has no room for all classes, the largest ones stay.
    """
    least = section.min_dpixels
    if task.kind == "regression":
        varies = len(task.value) >= least and task.value.min() < task.value.max()
        enough = varies and len(np.unique(task.group)) >= folds
        return np.full(len(task.value), enough), {}
    left_out: dict[str, str] = {}
    sizes: dict[int, int] = {}
    for code in task.classes:
        of_class = task.value == code
        size, groups = int(of_class.sum()), len(np.unique(task.group[of_class]))
        if size < least or groups < folds:
            left_out[str(code)] = f"{size} d-pixels in {groups} groups"
        else:
            sizes[code] = size
    room = section.max_dpixels // max(least, folds)
    ranked = sorted(sizes, key=lambda code: (-sizes[code], code))
    for code in ranked[room:]:
        left_out[str(code)] = f"max_dpixels has room for {room} classes"
    keep = np.isin(task.value, ranked[:room]) & (len(ranked[:room]) > 1)
    return keep, left_out


def _evenly(task: Task, seed: int, most: int) -> Ints:
    """Choose by hash: the classes take turns, and within a class its groups do.

    So a class has either its share of ``most`` or all its d-pixels, from as many groups as it can
    have. A regression is one class.
    """
    ticket = hash_u64(seed, task.tile, task.row)
    kind = task.value if task.kind == "classification" else np.zeros(len(task.row), np.int64)
    in_group = _turn((kind, task.group), (ticket,))
    in_class = _turn((kind,), (in_group, ticket))
    return np.sort(np.lexsort((ticket, in_class))[:most])


def _turn(within: tuple[Array, ...], by: tuple[Array, ...]) -> Ints:
    """Return each item's place, from 0, among the items that agree in all of ``within``."""
    order = np.lexsort((*by[::-1], *within[::-1]))
    changes = [np.diff(key[order]) != 0 for key in within]
    starts = np.concatenate([[True], np.any(changes, axis=0)])[: len(order)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    turn = np.empty(len(order), np.int64)
    turn[order] = np.arange(len(order)) - first
    return turn
