"""What the features of a study are worth: draws of labels, grouped folds, one probe, intervals.

The one idea: a seed draws its own labels and its own folds, so that an interval over seeds holds both,
and everything is compared seed by seed: rivals see the same d-pixels, and what is hard for one draw
is hard for all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as students_t

from models.dpixel import DPixels
from tasks.archive import Archive
from tasks.evaluation.ground import survey_ground
from tasks.evaluation.labels import Task, read_tasks
from tasks.evaluation.probes import folds_of, probe
from tasks.ingest import Catalogue, make_catalogue
from tasks.settings.products import EvaluateParams
from tasks.tiles import read_tile

Features = npt.NDArray[np.float32]
Facts = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Draw:
    """The tasks of one seed, and where their d-pixels lie among all that were drawn."""

    section: EvaluateParams
    tasks: tuple[Task, ...]
    rows: tuple[npt.NDArray[np.int64], ...]


@dataclass(frozen=True, eq=False)
class Kept:
    """The labelled d-pixels of an archive that a study evaluates on."""

    dpixels: DPixels
    draws: tuple[Draw, ...]

    def scores(self, features: Features, seed: int) -> dict[str, float]:
        """Return the score of each task for one seed's draw and folds."""
        draw = self.draws[seed]
        return {
            task.name: probe(
                features[rows], task, folds_of(task, draw.section.seed), draw.section
            ).score
            for task, rows in zip(draw.tasks, draw.rows, strict=True)
        }


def open_kept(folder: Path, section: EvaluateParams, seeds: int) -> Kept:
    """Draw the labels of an archive, once for each seed.

    Args:
        folder: The archive.
        section: Sizes of the draws and folds; the seed is replaced.
        seeds: How many draws.
    """
    entries = tuple(make_catalogue(folder))
    catalogue = Catalogue(folder, entries)
    archive = Archive(catalogue, tuple(read_tile(catalogue.tile(i)) for i in range(len(entries))))
    surveyed = survey_ground(archive, section.block_px)
    drawn = []
    for seed in range(seeds):
        own = section.model_copy(update={"seed": seed, "bootstrap": 1})
        drawn.append((own, [t for t in read_tasks(surveyed, own) if isinstance(t, Task)]))
    wanted = [(task.tile << 32) + task.row for _, tasks in drawn for task in tasks]
    keys = np.unique(np.concatenate(wanted))
    dpixels = DPixels.concatenate(
        [
            archive.dpixels(int(tile), keys[keys >> 32 == tile] & 0xFFFFFFFF)
            for tile in np.unique(keys >> 32)
        ]
    )
    draws = (
        Draw(
            own,
            tuple(tasks),
            tuple(np.searchsorted(keys, (task.tile << 32) + task.row) for task in tasks),
        )
        for own, tasks in drawn
    )
    return Kept(dpixels, tuple(draws))


def summarise(rows: Sequence[Mapping[str, float]]) -> Facts:
    """Return the mean over tasks with its interval over seeds, and each task's mean.

    Args:
        rows: The scores of each seed, by task.
    """
    composites = [float(np.mean(list(row.values()))) for row in rows]
    mean, low, high = interval(composites)
    tasks = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {"mean": mean, "low": low, "high": high, "tasks": tasks, "seeds": composites}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of some seeds and its 95 % interval by Student's t; nan bounds for one."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(students_t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - reach, mean + reach
