"""How often each pixel of a tile was seen: counts of valid observations, as a map and as shares.

The one idea: the year of a pixel is as good as its number of observations, and that number has a
geometry. Swath edges, stripes between detectors, and masks that cut something out show at once in a
map and in no average. What counts as valid is what the packer takes (``tasks.tiles.dpixels_of``).

It counts and does not judge: a thin pixel is left out by the packer, not a fault of the archive.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.tiles import RADAR
from tasks.validation.survey import Survey

Counts = npt.NDArray[np.uint16]

LAYERS = ("optical", "ascending", "descending")


def count_observations(survey: Survey) -> Counts | None:
    """Count the valid observations of each pixel, reading one date at a time.

    Args:
        survey: An opened tile folder.

    Returns:
        uint16 (H, W, 3): optical, ascending, descending. An absent orbit has 0, which is true of
        it. ``None`` where a file cannot be read on the tile's grid: a number would be invented.
    """
    if survey.valid is None:
        return None
    height, width = survey.valid.shape[1:3]
    counts = np.zeros((height, width, len(LAYERS)), np.uint16)
    for flags in survey.valid:
        counts[..., 0] += np.asarray(flags) != 0
    for layer, orbit in enumerate(RADAR, start=1):
        codes = survey.radar.get(orbit, (None, None))[0]
        if codes is None:
            if orbit in survey.radar:
                return None
            continue
        if len(codes) and codes.shape[1:3] != (height, width):
            return None
        for image in codes:
            counts[..., layer] += (np.asarray(image) != 0).any(axis=-1)
    return counts


class ObservationMaps:
    """The maps of an archive, one file a tile: ``<year>/<tile>.npy``, uint16 (H, W, 3).

    Args:
        folder: Where to write them.
        min_s2: Fewest optical observations of a pixel that the packer takes.
        min_s1: Fewest radar observations, both orbits together.
    """

    def __init__(self, folder: Path, min_s2: int, min_s1: int) -> None:
        self.folder, self.min_s2, self.min_s1 = folder, min_s2, min_s1

    def add(self, survey: Survey) -> dict[str, Any]:
        """Write the map of one tile.

        Returns:
            ``thin_s2_share`` and ``thin_s1_share``: pixels of the tile's region below the packer's
            minima; nothing where the tile cannot be counted, or its region holds no pixel.
        """
        counts = count_observations(survey)
        if counts is None:
            return {}
        path = self.path(survey.ref.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, counts, allow_pickle=False)
        fits = survey.region is not None and survey.region.shape == counts.shape[:2]
        inside = counts[survey.region] if fits else counts.reshape(-1, len(LAYERS))
        if not len(inside):
            return {}
        radar = inside[:, 1:].sum(axis=1, dtype=np.int64)
        return {
            "thin_s2_share": float((inside[:, 0] < self.min_s2).mean()),
            "thin_s1_share": float((radar < self.min_s1).mean()),
        }

    def path(self, key: str) -> Path:
        """Return where the map of a tile lies."""
        return self.folder / f"{key}.npy"
