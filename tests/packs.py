"""A small archive, packed: what several tests of packing start from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.dpixel import DPixels
from tasks.ingest import Catalogue, make_catalogue, make_tables
from tasks.pack import pack_archive
from tasks.packing.sources import accept
from tasks.settings.data import PackParams
from tasks.shards.rows import decode_dpixels
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.tiles import dpixels_of, read_tile

LEAST = 4
"""Memory in MB that makes several runs of ``make_archive``."""


def make_archive(folder: Path) -> Path:
    """Simulate six small tiles and return their folder."""
    config = SimulatorConfig(seed=5, num_tiles=3, tile_size_px=16, years=(2021, 2022))
    write_archive(config, folder)
    return folder


def pack_params(**changes: Any) -> PackParams:
    """Return settings for a corpus of some hundred rows."""
    given: dict[str, Any] = {"seed": 1, "rows_per_shard": 384, "block_rows": 64}
    given |= {"min_s2": 4, "min_s1": 4, "memory_mb": 64, "threads": 1}
    given |= {"holdout": "", "holdout_block_m": 1000, "holdout_years": "any"}
    return PackParams(**given | changes)


def catalogue_of(archive: Path) -> Catalogue:
    """Return an archive's catalogue, tables too."""
    entries, tables = tuple(make_catalogue(archive)), tuple(make_tables(archive))
    return Catalogue(archive, entries, tables=tables)


def accepted_of(catalogue: Catalogue, params: PackParams) -> list[DPixels]:
    """Return what a corpus must hold of each tile, in the order of the archive."""
    parts = []
    for index in range(len(catalogue)):
        tile = read_tile(catalogue.tile(index))
        inside = np.flatnonzero(tile.region.reshape(-1))
        parts.append(dpixels_of(tile, inside, catalogue.first_pixel_id(index)))
    return [accept(part, params)[0] for part in parts]


def pack_into(catalogue: Catalogue, folder: Path, params: PackParams) -> Path:
    """Pack an archive, going on with what is in the folder, and return the output."""
    build = folder / "build"
    for path in build.glob("*"):
        path.unlink()
    (folder / "work").mkdir(parents=True, exist_ok=True)
    build.mkdir(exist_ok=True)
    pack_archive(catalogue, folder / "work", build, params)
    return build


def read_index(build: Path) -> dict[str, Any]:
    """Return the content of ``index.json``."""
    content: dict[str, Any] = json.loads((build / "index.json").read_text())
    return content


def read_blocks(build: Path) -> list[DPixels]:
    """Return all blocks of a corpus in their order."""
    files = [pa.ipc.open_file(build / entry["name"]) for entry in read_index(build)["shards"]]
    return [
        decode_dpixels(file.get_batch(number))
        for file in files
        for number in range(file.num_record_batches)
    ]


def read_ids(build: Path) -> np.ndarray:
    """Return all pixel ids of a corpus in their order."""
    return np.concatenate([block.pixel_id for block in read_blocks(build)])


def contents(build: Path) -> dict[str, bytes]:
    """Return the bytes of every file of an output."""
    return {path.name: path.read_bytes() for path in sorted(build.iterdir())}
