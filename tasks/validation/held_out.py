"""Ground that is kept for evaluation, and which pixels of an archive lie on it.

The one idea: labels hold out their whole block, not their pixel: neighbours ten metres apart show the
same field. The packer asks here before it takes a pixel; that it did is checked from what it wrote,
and on another way, by ``tasks.validation.leaks``.
"""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.errors import ParamsError
from tasks.tiles import REGION, Tile
from tasks.validation.label_places import UNKNOWN_YEAR, Places, placed, read_labels, read_points
from tasks.validation.places import (
    LEAST_BLOCK_M,
    Grid,
    Keys,
    with_year,
    without_year,
)

Years = Literal["same", "any"]
"""Whether a held-out block is held out in the label's year alone, or in every year."""


class HeldOut:
    """Blocks of ground that training must not touch.

    Args:
        places: Where the labels are.
        block_m: Side of a block in metres.
        years: Whether a block is held out in the label's year, or in every year.

    Raises:
        ParamsError: The block is smaller than a pixel.
        DataError: A label is not on the Earth.
    """

    def __init__(self, places: Iterable[Places], block_m: int, years: Years) -> None:
        check_block(block_m)
        self.block_m, self.years = block_m, years
        dated: list[Keys] = [np.zeros(0, np.int64)]
        always: list[Keys] = [np.zeros(0, np.int64)]
        for part in places:
            blocks = np.unique(placed(part, block_m))
            dated.append(with_year(blocks, part.year))
            if years == "any" or part.year == UNKNOWN_YEAR:
                always.append(blocks)
        self._dated = np.unique(np.concatenate(dated))
        self._always = np.unique(np.concatenate(always))

    @classmethod
    def open(cls, path: Path, block_m: int, years: Years) -> "HeldOut":
        """Read the labels of an archive or of a Parquet table.

        Raises:
            DataError: A label has no place or no year, or there is none.
            ParamsError: Nothing is there, or the block is smaller than a pixel.
        """
        return cls(read_labels(path), block_m, years)

    @property
    def digest(self) -> str:
        """SHA-256 of what is held out: equal for equal blocks, whatever they were read from."""
        facts = f"{self.block_m} {self.years} ".encode()
        return sha256(facts + self._dated.tobytes() + self._always.tobytes()).hexdigest()

    def covers(self, tile: Tile) -> npt.NDArray[np.bool_]:
        """Return which pixels of a tile, (H, W), lie in a held-out block.

        Raises:
            DataError: The tile has no georeference, so nobody can say.
        """
        height, width = tile.shape
        pixels = np.arange(height * width, dtype=np.uint32)
        parts = Grid(tile.ref.folder / REGION).blocks(pixels, width, self.block_m)
        held = [self._holds(blocks, tile.ref.year) for blocks in parts]
        return np.concatenate([np.zeros(0, bool), *held]).reshape(height, width)

    def covers_table(self, path: Path) -> npt.NDArray[np.bool_]:
        """Return which rows of a point table, (n,), lie in a held-out block.

        Raises:
            DataError: The table does not say where and when its rows are.
        """
        parts = list(read_points(path))
        held = np.zeros(sum(len(part.rows) for part in parts), bool)
        for part in parts:
            held[part.rows] = self._holds(placed(part, self.block_m), part.year)
        return held

    def _holds(self, blocks: Keys, year: int) -> npt.NDArray[np.bool_]:
        names, at = np.unique(blocks, return_inverse=True)
        if year == UNKNOWN_YEAR:
            held = np.isin(names, without_year(self._dated))
        else:
            held = np.isin(names, self._always) | np.isin(with_year(names, year), self._dated)
        return np.asarray(held[at])


def check_block(block_m: int) -> None:
    """Refuse a block that is smaller than a pixel.

    Raises:
        ParamsError: It is.
    """
    if block_m < LEAST_BLOCK_M:
        raise ParamsError(
            f"a side of at least {LEAST_BLOCK_M} m",
            found=str(block_m),
            where="block_m",
            mend="Name the side of a block in metres, e.g. 1000.",
        )
