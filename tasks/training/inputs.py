"""From the rows of a batch to the tensors of one view, and what a job trains on.

What is hidden, and which observations a view holds, follows from each row's seed alone, so a row's
view is the same on whichever process it falls.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.buckets import bucket_of
from models.distillation import Group
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


def full_inputs(
    parts: Sequence[Part],
    ladder: tuple[int, ...],
    scales: Scales,
    *,
    dropout: float,
    device: torch.device,
) -> tuple[list[Group], list[Group]]:
    """Give each row all of its observations, in the buckets of a ladder, as in use.

    A row with more than the largest bucket gives a random subset of that size.

    Args:
        parts: The rows.
        ladder: Lengths of the buckets, rising.
        scales: Statistics that the observations are normalised with.
        dropout: Chance of hiding Sentinel-2, and equally Sentinel-1.
        device: Where the model is.

    Returns:
        The groups of Sentinel-2 and of Sentinel-1, one or more a bucket. A sensor that is absent or
        hidden is one zero token.
    """
    s2: list[Group] = []
    s1: list[Group] = []
    first = 0
    for part in parts:
        seeds, slots = hash_u64(part.seeds, 0), full_lengths([part], ladder, dropout)
        for sensor, groups in enumerate((s2, s1)):
            pool = (part.held.s2, part.held.s1)[sensor]
            drawn = hash_u64(seeds, (_S2, _S1)[sensor])
            for length in np.unique(slots[:, sensor]).tolist():
                own = np.flatnonzero(slots[:, sensor] == length)
                view = draw_view(pool, part.at[own], max(1, length), drawn[own], scales[sensor])
                if not length:  # rows that are hidden have observations
                    for array in view:
                        array[:] = 0.0
                rows, values, days = (torch.from_numpy(a).to(device) for a in (own + first, *view))
                groups.append((rows, values, days))
        first += len(part.at)
    return s2, s1


def full_lengths(
    parts: Sequence[Part], ladder: tuple[int, ...], dropout: float
) -> npt.NDArray[np.int64]:
    """Return (rows, 2): the slots of each sensor in ``full_inputs``, 0 where absent or hidden."""
    found = []
    for part in parts:
        hidden = _hidden(part, hash_u64(part.seeds, 0), dropout)
        counts = [pool.counts[part.at].sum(axis=1) for pool in (part.held.s2, part.held.s1)]
        seen = [np.where(h, 0, count) for h, count in zip(hidden, counts, strict=True)]
        found.append(np.stack([bucket_of(count, ladder) for count in seen], axis=1))
    return np.concatenate(found)


def as_groups(view: Inputs) -> tuple[list[Group], list[Group]]:
    """Return a view of one length as groups: one a sensor."""
    s2_values, s2_doy, s1_values, s1_doy = view
    rows = torch.arange(len(s2_values), device=s2_values.device)
    return [(rows, s2_values, s2_doy)], [(rows, s1_values, s1_doy)]


def micro_batches(parts: Sequence[Part], size: int) -> Iterator[list[Part]]:
    """Cut a batch into pieces of ``size`` rows, in their order; the last one has what is left."""
    piece: list[Part] = []
    room = size
    for part in parts:
        at = 0
        while at < len(part.at):
            taken = slice(at, at + room)
            piece.append(replace(part, at=part.at[taken], seeds=part.seeds[taken]))
            at, room = at + room, room - len(piece[-1].at)
            if not room:
                yield piece
                piece, room = [], size
    if piece:
        yield piece


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
    hide_s2, hide_s1 = _hidden(part, seeds, dropout)
    s2_view = draw_view(s2, part.at, length, hash_u64(seeds, _S2), scales[0])
    s1_view = draw_view(s1, part.at, length, hash_u64(seeds, _S1), scales[1])
    for view_arrays, hidden in ((s2_view, hide_s2), (s1_view, hide_s1)):
        for array in view_arrays:
            array[hidden] = 0.0
    return *s2_view, *s1_view


def _hidden(
    part: Part, seeds: npt.NDArray[np.uint64], dropout: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Decide for which rows Sentinel-2, and for which Sentinel-1, is hidden."""
    s2, s1 = part.held.s2, part.held.s1
    return drop_modality(
        hash_u64(seeds, _HIDE), dropout, has_s2=_has(s2, part.at), has_s1=_has(s1, part.at)
    )


def _has(pool: Pool, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return np.asarray(pool.counts[rows].sum(axis=1) > 0)
