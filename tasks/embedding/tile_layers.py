"""The layers of one embedding tile, written block by block into files that never look whole too soon.

    <name>.npy                float32 (H, W, dim), or int8 codes
    <name>_scales.npy         float32 (H, W), with codes; embedding = code * scale; NaN: no data
    <name>_observations.npy   uint16 (H, W, 3): Sentinel-2, Sentinel-1 ascending, descending

The one idea: a journal beside the files says how many blocks are safely in them and what they were
made from. After a crash the same work goes on behind the last block; other work starts anew.

The scale of a pixel comes from its full embedding, so the first 16, 32 or 64 codes are exact
prefixes of all.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.quantize import quantize
from tasks.embedding.blocks import BLOCK_DPIXELS, Embedded
from tasks.embedding.codes import check_codes
from tasks.files import release_pages, sync_file, write_json

_JOURNAL = "journal.json"

Layer = npt.NDArray[Any]


class TileLayers:
    """The files of a tile in a working folder of their own.

    Args:
        folder: The working folder; emptied unless it holds the same work, unfinished.
        name: Stem of the files.
        region: bool (H, W): pixels that will be written; the others are no data.
        dim: Coordinates to keep.
        as_codes: Whether to write int8 codes and scales.
        identity: Digest of everything the bytes depend on.

    Raises:
        OSError: The disk is full or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        region: npt.NDArray[np.bool_],
        *,
        dim: int,
        as_codes: bool,
        identity: str,
    ) -> None:
        self.folder, self.name, self._dim, self._identity = folder, name, dim, identity
        height, width = region.shape
        kinds: dict[str, tuple[tuple[int, ...], type]] = {
            "": ((height, width, dim), np.int8 if as_codes else np.float32),
            "_observations": ((height, width, 3), np.uint16),
        }
        if as_codes:
            kinds["_scales"] = ((height, width), np.float32)
        self.num_blocks = self._blocks_done()
        if not self.num_blocks:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                for suffix, (shape, dtype) in kinds.items():
                    _allocate(folder / f"{name}{suffix}.npy", shape, dtype)
            except OSError:
                shutil.rmtree(folder)  # what does not fit must not take the room of other tiles
                raise
        for path in folder.glob(".*.part"):
            path.unlink()  # a crash in the middle of writing a record left it
        self._layers = {s: np.load(folder / f"{name}{s}.npy", mmap_mode="r+") for s in kinds}
        if not self.num_blocks:
            self._blank("_scales" if as_codes else "", np.flatnonzero(~region))

    @property
    def paths(self) -> list[Path]:
        """The files, in the order of their names."""
        return sorted(self.folder / f"{self.name}{suffix}.npy" for suffix in self._layers)

    @property
    def observations(self) -> npt.NDArray[np.uint16]:
        """(H, W, 3): counts of observations of what has been written."""
        counts: npt.NDArray[np.uint16] = self._layers["_observations"]
        return counts

    def put(self, block: Embedded) -> None:
        """Write the next block and make it safe.

        Raises:
            DataError: The block cannot be an embedding; see ``check_codes``.
        """
        codes, scales = quantize(block.embedding)
        check_codes(codes, scales, block, self._place)
        if "_scales" in self._layers:
            self._flat("")[block.rows] = codes[:, : self._dim]
            self._flat("_scales")[block.rows] = scales
        else:
            self._flat("")[block.rows] = block.embedding[:, : self._dim]
        self._flat("_observations")[block.rows] = block.observations
        self.num_blocks += 1
        self._flush()
        write_json(self.folder / _JOURNAL, {"identity": self._identity, "blocks": self.num_blocks})

    def finish(self) -> None:
        """Close the files, all on the disk, and drop the journal."""
        self._layers = dict.fromkeys(self._layers, np.zeros(0))
        for path in self.paths:
            sync_file(path)
        (self.folder / _JOURNAL).unlink(missing_ok=True)

    def _blank(self, suffix: str, outside: npt.NDArray[np.int64]) -> None:
        """Write no data outside the region, in parts, so that memory stays constant."""
        for start in range(0, len(outside), BLOCK_DPIXELS):
            self._flat(suffix)[outside[start : start + BLOCK_DPIXELS]] = np.nan
            self._flush()

    def _flush(self) -> None:
        for layer in self._layers.values():
            layer.flush()
        release_pages(*self._layers.values())

    def _flat(self, suffix: str) -> Layer:
        layer = self._layers[suffix]
        flat: Layer = layer.reshape(-1, *layer.shape[2:])
        return flat

    def _place(self, pixel: int) -> str:
        row, column = divmod(pixel, self._layers[""].shape[1])
        return f"tile {self.name}, pixel row {row} column {column}"

    def _blocks_done(self) -> int:
        try:
            journal = json.loads((self.folder / _JOURNAL).read_text())
            return int(journal["blocks"]) if journal["identity"] == self._identity else 0
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0  # none yet, or damaged


def _allocate(path: Path, shape: tuple[int, ...], dtype: type) -> None:
    """Make an array file whose bytes are all on the disk: a mapped file cannot report a full one."""
    try:
        np.lib.format.open_memmap(path, "w+", dtype, shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
