"""Where and when a tile is, for scenes that are made of it.

It deliberately invents nothing: a day that the year does not have is refused, not moved.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from rasterio.transform import Affine

from tasks.errors import DataError
from tasks.tiles import Array, Tile


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile lies."""

    crs: str
    """Authority code of the map projection."""
    transform: Affine
    """Pixel to map coordinates."""
    squares: tuple[str, str]
    """Names of the MGRS-like squares of its western and eastern half; no two tiles share one."""
    year: int
    """Year of all its dates."""

    def dates(self, tile: Tile, name: str, doys: Array) -> list[date]:
        """Return the dates of days of the year.

        Args:
            tile: The tile, to name in a refusal.
            name: File that the days are from.
            doys: (T,) days of the year.

        Raises:
            DataError: A day is no day of the year, or comes twice.
        """
        first = date(self.year, 1, 1)
        length = (date(self.year, 12, 31) - first).days + 1
        days = [first + timedelta(int(doy) - 1) for doy in doys if 1 <= doy <= length]
        if len(set(days)) < len(doys):
            raise DataError(
                f"days of the year {self.year}, each once",
                found=f"{np.asarray(doys).tolist()}",
                where=f"{name} of tile {tile.ref.key}",
                mend="Mend the file, or give the right --year.",
            )
        return days
