"""Features of the drawn d-pixels under one model, tile by tile, kept until the stage is done.

The one idea: all tasks together ask for some pixels of each tile, and each is encoded once a
model. What an interrupted run has encoded is read back.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.encode import Encoder
from tasks.archive import Archive
from tasks.embedding.blocks import embed_pixels
from tasks.evaluation.composites import composite_features
from tasks.evaluation.labels import Task
from tasks.progress import track

Features = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Extract = Callable[[Archive, int, Rows], Features]
"""Features of chosen pixels (flat indices, rising) of one tile of an archive."""


def embedding_of(encoder: Encoder) -> Extract:
    """Return the extractor that encodes with a model."""
    return partial(_embed, encoder)


def _embed(encoder: Encoder, archive: Archive, index: int, rows: Rows) -> Features:
    return embed_pixels(encoder, archive.tiles[index], rows)


def raw_composites(archive: Archive, index: int, rows: Rows) -> Features:
    """Extract the raw baseline."""
    return composite_features(archive.dpixels(index, rows))


def features_of(
    archive: Archive, tasks: Sequence[Task], name: str, extract: Extract, work: Path
) -> list[Features]:
    """Return each task's features, in the order of its d-pixels.

    Args:
        archive: Where the pixels are.
        tasks: What asks for them.
        name: Name of the model, for progress and for the files kept.
        extract: Makes the features.
        work: Folder that survives a crash of the stage.
    """
    wanted = {
        index: np.unique(np.concatenate([task.row[task.tile == index] for task in tasks]))
        for index in np.unique(np.concatenate([task.tile for task in tasks])).tolist()
    }
    found: dict[int, Features] = {}
    for index in track(list(wanted), label=f"encode {name}", total=len(wanted), unit="tiles"):
        kept = work / f"{name}-{index:06d}.npy"
        if not kept.exists():
            aside = work / f"{name}-{index:06d}.part.npy"
            np.save(aside, extract(archive, index, wanted[index]))
            aside.replace(kept)
        found[index] = np.load(kept)
    return [_pick(task, wanted, found) for task in tasks]


def _pick(task: Task, rows: dict[int, Rows], found: dict[int, Features]) -> Features:
    width = next(iter(found.values())).shape[1]
    out = np.full((len(task.row), width), np.nan, np.float32)
    for index, features in found.items():
        here = task.tile == index
        out[here] = features[np.searchsorted(rows[index], task.row[here])]
    return out
