"""A whole archive, opened: every tile verified against the catalogue once and memory-mapped.

The one idea: verification reads every byte, so it is done once, here, and readers that go through
the tiles several times share the result.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels
from tasks.ingest import Catalogue, read_catalogue
from tasks.tiles import Tile, dpixels_of, read_tile
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Archive:
    """The tiles of a catalogue, in its order."""

    catalogue: Catalogue
    tiles: tuple[Tile, ...]

    def dpixels(self, index: int, rows: npt.NDArray[np.int64]) -> DPixels:
        """Collect the observations of chosen pixels (flat indices, rising) of a tile."""
        return dpixels_of(self.tiles[index], rows, self.catalogue.first_pixel_id(index))

    def observed(self, index: int) -> npt.NDArray[np.bool_]:
        """Return (H, W): the pixel has at least one valid observation of any sensor.

        Validity is that of ``dpixels_of``. Read time by time, so memory holds one image.
        """
        tile = self.tiles[index]
        seen = np.zeros(tile.shape, bool)
        for image in tile.valid:
            seen |= np.asarray(image) != 0
        for values, _ in tile.radar.values():
            for image in values:
                seen |= (np.asarray(image) != 0).any(axis=-1)
        return seen


def open_archive(workspace: Workspace, folder: Path) -> Archive:
    """Open the archive that ``ingest`` catalogued into its output ``folder``.

    Raises:
        DigestMismatch: A tile changed since the archive was ingested.
        DataError: A tile breaks the layout.
    """
    catalogue = read_catalogue(workspace, folder)
    tiles = (read_tile(catalogue.tile(index)) for index in range(len(catalogue)))
    return Archive(catalogue, tuple(tiles))
