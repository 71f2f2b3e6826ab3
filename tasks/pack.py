"""Pack the archive into shards of d-pixels, shuffled across tiles.

Two passes, so that no machine has to hold all d-pixels. First each tile's pixels are scattered to
buckets by a hash of (seed, pixel id); then each bucket is sorted by that hash and becomes a shard.
The hash is uniform, so a shard is a random sample of all tiles in random order: the global shuffle
that keeps neighbours out of one batch (TESSERA v2, section 4). Both passes resume per tile and per
shard. Labels never enter a shard.
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels
from models.hashing import hash_u64
from tasks.errors import DataError, ValidationFailed
from tasks.files import write_json
from tasks.ingest import Catalogue, read_catalogue
from tasks.params import PackParams, Params
from tasks.progress import track
from tasks.shards import read_dpixels, write_dpixels, write_index
from tasks.stage import Stage, run_stage, stage_main
from tasks.tiles import Tile, dpixels_of, read_tile
from tasks.validation.expectations import shard_verdict
from tasks.validation.tables import shard_statistics
from tasks.workspace import Workspace

_DONE = "rejected.json"


def pack(workspace: Workspace, params: Params) -> None:
    """Run the stage."""

    def body(stage: Stage) -> None:
        catalogue = read_catalogue(workspace, stage.parents["ingest"])
        spill = stage.work / "spill"
        rejected = _scatter(catalogue, spill, params.pack)
        names, rows = _gather(spill, stage.work / "shards", params.pack)
        _judge(rows, stage)
        for name in names:
            shutil.copyfile(stage.work / "shards" / name, stage.build / name)
        tiles = [entry.key for entry in catalogue.entries]
        write_index(stage.build, names, {"rejected": dict(rejected), "tiles": tiles})
        stage.counts |= {
            "dpixels": sum(row["rows"] for row in rows),
            "observations": sum(row["s2_observations"] + row["s1_observations"] for row in rows),
            "shards": len(names),
            **{f"rejected_{reason}": count for reason, count in rejected.items()},
        }

    run_stage(
        "pack", body, workspace=workspace, section=params.pack, parents=("ingest", "validate")
    )


def _scatter(catalogue: Catalogue, spill: Path, params: PackParams) -> Counter[str]:
    """First pass: each tile's accepted d-pixels, split by bucket; returns the rejected ones."""
    rejected: Counter[str] = Counter()
    num_shards = _num_shards(catalogue, params)
    for index in track(range(len(catalogue)), label="scatter", total=len(catalogue), unit="tiles"):
        folder = spill / f"{index:06d}"
        if not (folder / _DONE).exists():
            _scatter_tile(catalogue, index, folder, num_shards, params)
        rejected.update(json.loads((folder / _DONE).read_text()))
    return rejected


def _num_shards(catalogue: Catalogue, params: PackParams) -> int:
    """Return enough shards that one holds ``rows_per_shard`` on average, or fewer."""
    shapes = (read_tile(catalogue.tile(index)).shape for index in range(len(catalogue)))
    return max(1, round(sum(h * w for h, w in shapes) / params.rows_per_shard))


def _scatter_tile(
    catalogue: Catalogue, index: int, folder: Path, num_shards: int, params: PackParams
) -> None:
    tile = read_tile(catalogue.tile(index))
    dpixels, rejected = accept(tile, catalogue.first_pixel_id(index), params)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bucket = _bucket(dpixels.pixel_id, num_shards, params.seed)
    for number in np.unique(bucket):
        write_dpixels(
            folder / _shard_name(int(number)), dpixels.take(np.flatnonzero(bucket == number))
        )
    write_json(folder / _DONE, rejected)


def accept(tile: Tile, first_id: int, params: PackParams) -> tuple[DPixels, dict[str, int]]:
    """Return a tile's d-pixels that are thick enough, and how many are not, by reason.

    A d-pixel is left out for one reason, the first that holds: outside the region, no observation
    at all, too few optical ones, too few radar ones.
    """
    inside = np.flatnonzero(tile.region.reshape(-1))
    dpixels = dpixels_of(tile, inside, first_id)
    optical, radar = dpixels.s2.counts, dpixels.s1_counts
    reasons = {
        "empty": (optical == 0) & (radar == 0),
        "few_optical": optical < params.min_s2,
        "few_radar": radar < params.min_s1,
    }
    left: npt.NDArray[np.bool_] = np.ones(len(dpixels), dtype=bool)
    rejected = {"outside": tile.region.size - len(inside)}
    for reason, applies in reasons.items():
        rejected[reason] = int((applies & left).sum())
        left &= ~applies
    return dpixels.take(np.flatnonzero(left)), rejected


def _order(pixel_id: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    return hash_u64(seed, pixel_id)


def _bucket(pixel_id: npt.NDArray[np.uint64], num_shards: int, seed: int) -> npt.NDArray[Any]:
    """Return each d-pixel's shard: the upper 32 bits of its order, scaled. Rising with the order."""
    upper = _order(pixel_id, seed) >> np.uint64(32)
    return ((upper * np.uint64(num_shards)) >> np.uint64(32)).astype(np.int64)


def _shard_name(number: int) -> str:
    return f"dpixels-{number:05d}.arrow"


def _gather(
    spill: Path, shards: Path, params: PackParams
) -> tuple[list[str], list[dict[str, Any]]]:
    """Second pass: join each bucket over the tiles and sort it; returns names and statistics."""
    names = sorted({path.name for path in spill.glob("*/dpixels-*.arrow")})
    if not names:
        raise DataError(
            f"d-pixels with at least {params.min_s2} optical and {params.min_s1} radar observations",
            found="none in the whole archive",
            where="pack",
            mend="Lower pack.min_s2 or pack.min_s1 in params.yaml (0 accepts an absent sensor).",
        )
    shards.mkdir(exist_ok=True)
    rows = []
    for name in track(names, label="shuffle", total=len(names), unit="shards"):
        if not (shards / name).exists():
            parts = [read_dpixels(path) for path in sorted(spill.glob(f"*/{name}"))]
            joined = DPixels.concatenate(parts)
            order = np.lexsort((joined.pixel_id, _order(joined.pixel_id, params.seed)))
            write_dpixels(shards / name, joined.take(order))
        rows.append(shard_statistics(name, read_dpixels(shards / name)))
    return names, rows


def _judge(rows: list[dict[str, Any]], stage: Stage) -> None:
    verdict = shard_verdict(rows)
    write_json(stage.build / "verdict.json", verdict.as_dict())
    if not verdict.success:
        raise ValidationFailed(
            "shards that meet every expectation",
            found=verdict.summary(),
            where="pack",
            mend="This is a defect of the packing: please report it with the verdict.",
        )


if __name__ == "__main__":
    stage_main(pack)
