"""Draw the probe of a training from the labels of the archive, once, before it starts.

The one idea: a share of the groups of labelled ground is the probe's and never the evaluation's, so
what chose a checkpoint does not report on it. Whoever trains then reads one file in the work folder;
the archive is opened here alone.

An archive without labels, or with too few, is legal: then nothing is probed, and the last weights
are the result.
"""

from pathlib import Path

import numpy as np

from models.dpixel import DPixels
from tasks.archive import Archive, open_archive
from tasks.evaluation.ground import Ground, Ints, survey_ground
from tasks.evaluation.labels import Task, read_tasks
from tasks.evaluation.probes import folds_of
from tasks.params import Params
from tasks.progress import say
from tasks.stage import Stage
from tasks.training.probe import Labelled, Probe, read_probe, write_probe

_FILE = "probe.npz"
_TILE = 32  # bits of a pixel number below its tile's


def prepare_probe(stage: Stage, params: Params) -> None:
    """Leave the probe of a training in its work folder; its parents must include ``ingest``."""
    path = stage.work / _FILE
    if not path.exists():
        archive = open_archive(stage.workspace, stage.parents["ingest"])
        probe = draw_probe(survey_ground(archive, params.evaluate.block_px), params)
        if probe is not None:
            write_probe(path, probe)
    drawn = open_probe(stage.work)
    if drawn is None:
        say(f"{stage.name}: no ground is labelled well enough for a probe: the last weights count")
        return
    stage.counts |= {"probe_tasks": len(drawn.tasks), "probe_dpixels": len(drawn.dpixels)}


def open_probe(work: Path) -> Probe | None:
    """Return the probe in a work folder; ``None`` where nothing can be probed."""
    path = work / _FILE
    return read_probe(path) if path.exists() else None


def draw_probe(ground: Ground, params: Params) -> Probe | None:
    """Draw the tasks of the probe from its share of the ground; ``None`` if there are none."""
    section = params.probing
    found = read_tasks(ground, section, ground.of_probe(params.probe))
    tasks = [item for item in found if isinstance(item, Task)]
    if not tasks:
        return None
    places = np.unique(np.concatenate([_places(task) for task in tasks]))
    labelled = [
        Labelled(task, np.searchsorted(places, _places(task)), folds_of(task, section.seed))
        for task in tasks
    ]
    dpixels = _dpixels(ground.archive, places)
    return Probe(dpixels, tuple(labelled), section.seed, section.bootstrap)


def _places(task: Task) -> Ints:
    return (task.tile << _TILE) + task.row


def _dpixels(archive: Archive, places: Ints) -> DPixels:
    """Collect the observations at places, which rise."""
    tile, row = places >> _TILE, places & ((1 << _TILE) - 1)
    return DPixels.concatenate(
        [archive.dpixels(index, row[tile == index]) for index in np.unique(tile).tolist()]
    )
