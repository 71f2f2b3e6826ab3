"""From the rows of a batch to the tensors of one view, and what a job trains on.

What is hidden, and which observations a view holds, follows from each row's seed alone, so a row's
view is the same on whichever process it falls.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.hashing import hash_u64
from models.pools import Pool, Scale
from models.views import draw_view, drop_modality
from tasks.streaming.corpus import Corpus, open_output
from tasks.streaming.stream import Part
from tasks.training.launch import Job

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""What a model reads: Sentinel-2 values and days, Sentinel-1 values and days."""

Scales = tuple[Scale, Scale]
"""Statistics of Sentinel-2 and Sentinel-1."""

_S2, _S1, _HIDE = 2, 1, 3  # parts that keep the draws of one row independent

Arrays = tuple[npt.NDArray[np.float32], ...]


def view_inputs(
    parts: Sequence[Part],
    view: int,
    length: int,
    scales: Scales,
    *,
    dropout: float,
    device: torch.device,
) -> Inputs:
    """Draw one view of each row of a batch.

    Args:
        parts: The rows.
        view: Which view of them, 0 or 1; views are drawn independently.
        length: Observations a sensor.
        scales: Statistics that the observations are normalised with.
        dropout: Chance of hiding Sentinel-2, and equally Sentinel-1.
        device: Where the model is.
    """
    drawn = [_draw(part, view, length, scales, dropout) for part in parts]
    joined = drawn[0] if len(drawn) == 1 else tuple(map(np.concatenate, zip(*drawn, strict=True)))
    s2_values, s2_doy, s1_values, s1_doy = (torch.from_numpy(a).to(device) for a in joined)
    return s2_values, s2_doy, s1_values, s1_doy


def target_inputs(parts: Sequence[Part], device: torch.device) -> Tensor:
    """Return the cached targets (rows, d_T) of a batch, float32."""
    targets = [part.held.targets[part.at] for part in parts if part.held.targets is not None]
    return torch.from_numpy(np.concatenate(targets).astype(np.float32)).to(device)


def open_parent(job: Job, name: str, kind: str) -> Corpus:
    """Open the shards that a parent stage made, as ``open_output`` does."""
    return open_output(name, job.parent(name), job.shards, kind)


def _draw(part: Part, view: int, length: int, scales: Scales, dropout: float) -> Arrays:
    seeds = hash_u64(part.seeds, view)
    s2, s1 = part.held.s2, part.held.s1
    hide_s2, hide_s1 = drop_modality(
        hash_u64(seeds, _HIDE), dropout, has_s2=_has(s2, part.at), has_s1=_has(s1, part.at)
    )
    s2_view = draw_view(s2, part.at, length, hash_u64(seeds, _S2), scales[0])
    s1_view = draw_view(s1, part.at, length, hash_u64(seeds, _S1), scales[1])
    for view_arrays, hidden in ((s2_view, hide_s2), (s1_view, hide_s1)):
        for array in view_arrays:
            array[hidden] = 0.0
    return *s2_view, *s1_view


def _has(pool: Pool, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return np.asarray(pool.counts[rows].sum(axis=1) > 0)
