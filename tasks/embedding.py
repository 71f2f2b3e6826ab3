"""From a tile to embeddings: a checkpoint with everything that reading a d-pixel needs.

The one idea: evaluation and export must see the same numbers, so both come through here. The
checkpoint's own statistics, band order and ladder are used, never a setting of the caller.

It deliberately keeps nothing on the disk and does not quantise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import Normalisation
from models.checkpoint import build, checkpoint_digest, ladder_of, normalisation_of, read_checkpoint
from models.dpixel import DPixels
from models.encode import encode
from models.student import Student
from models.teacher import Teacher
from tasks.tiles import Array, Tile, dpixels_of

_DPIXELS_AT_ONCE = 8192  # bounds the memory of a tile of any size: about 20 kB a d-pixel


@dataclass(frozen=True, slots=True)
class Encoder:
    """A frozen model and how its inputs are prepared."""

    model: Student | Teacher
    normalisation: Normalisation
    ladder: tuple[int, ...]
    prefixes: tuple[int, ...]
    """Lengths at which an embedding may be cut; a teacher's full length only."""
    digest: str
    """``checkpoint_digest`` of the checkpoint folder."""

    @property
    def dim(self) -> int:
        """Full length of an embedding."""
        return self.prefixes[-1]

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())


@dataclass(frozen=True, slots=True)
class Embedded:
    """What is known about some pixels of a tile."""

    embedding: npt.NDArray[np.float32]
    """(n, dim); NaN where a pixel was not observed by either sensor."""
    observations: npt.NDArray[np.uint16]
    """(n, 3): valid observations of Sentinel-2, Sentinel-1 ascending, Sentinel-1 descending."""


def open_encoder(folder: Path) -> Encoder:
    """Load a student's or teacher's checkpoint folder for inference on the CPU.

    Raises:
        ValueError: The checkpoint is incomplete or does not fit its own configuration.
    """
    state, config = read_checkpoint(folder)
    model = build(config, state).eval()
    prefixes = tuple(int(prefix) for prefix in config["prefixes"])
    return Encoder(
        model, normalisation_of(config), ladder_of(config), prefixes, checkpoint_digest(folder)
    )


def embed_pixels(encoder: Encoder, tile: Tile, rows: Array, *, max_tokens: int) -> Embedded:
    """Encode chosen pixels of a tile from all of their valid observations.

    Args:
        encoder: From ``open_encoder``.
        tile: An open tile.
        rows: Flat pixel indices (row-major), rising.
        max_tokens: Tokens of both sensors in one batch.

    Returns:
        Embeddings and observation counts in the order of ``rows``.
    """
    embedding = np.full((len(rows), encoder.dim), np.nan, np.float32)
    observations = np.zeros((len(rows), 3), np.uint16)
    for start in range(0, len(rows), _DPIXELS_AT_ONCE):
        part = slice(start, start + _DPIXELS_AT_ONCE)
        dpixels = dpixels_of(tile, rows[part], first_id=0)
        observations[part] = count_observations(dpixels)
        embedding[part] = encode(
            encoder.model, dpixels, encoder.normalisation, encoder.ladder, max_tokens=max_tokens
        )
    return Embedded(embedding, observations)


def count_observations(dpixels: DPixels) -> npt.NDArray[Any]:
    """Return (n, 3) counts: Sentinel-2, Sentinel-1 ascending, Sentinel-1 descending."""
    return np.stack(
        [dpixels.s2.counts, dpixels.s1_asc.counts, dpixels.s1_desc.counts], axis=1
    ).astype(np.uint16)
