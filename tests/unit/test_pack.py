from pathlib import Path

import numpy as np
import pytest

from models.hashing import hash_u64
from tasks.files import sha256_of
from tasks.ingest import Catalogue, make_catalogue
from tasks.pack import _gather, _scatter, accept
from tasks.params import PackParams
from tasks.shards import ShardSet, read_dpixels, write_index
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.tiles import dpixels_of, read_tile


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    archive = tmp_path_factory.mktemp("archive") / "data"
    config = SimulatorConfig(seed=5, num_tiles=3, tile_size_px=16, years=(2021, 2022))
    write_archive(config, archive)
    return Catalogue(archive, tuple(make_catalogue(archive)))


def settings(**changes: int) -> PackParams:
    return PackParams(**({"seed": 1, "rows_per_shard": 400, "min_s2": 4, "min_s1": 4} | changes))


def pack(catalogue: Catalogue, folder: Path, params: PackParams) -> ShardSet:
    folder.mkdir(exist_ok=True)
    _scatter(catalogue, folder / "spill", params)
    names, _ = _gather(folder / "spill", folder / "shards", params)
    write_index(folder / "shards", names, {})
    return ShardSet(folder / "shards")


def all_ids(shards: ShardSet) -> np.ndarray:
    return np.concatenate([shards.shard(i).pixel_id for i in range(len(shards.entries))])


def test_every_accepted_dpixel_is_in_exactly_one_shard(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    params = settings()
    found = all_ids(pack(catalogue, tmp_path, params))
    expected = [
        accept(read_tile(catalogue.tile(i)), catalogue.first_pixel_id(i), params)[0].pixel_id
        for i in range(len(catalogue))
    ]
    assert sorted(found) == sorted(np.concatenate(expected))
    assert len(set(found)) == len(found)


def test_observations_of_a_packed_dpixel_are_those_of_its_tile(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    shards = pack(catalogue, tmp_path, settings())
    for row in (0, 57, len(shards) - 1):
        packed = shards.take(np.array([row]))
        index, pixel = divmod(int(packed.pixel_id[0]), 1 << 32)
        tile = read_tile(catalogue.tile(index))
        direct = dpixels_of(tile, np.array([pixel]), catalogue.first_pixel_id(index))
        assert np.array_equal(packed.s2.values, direct.s2.values)
        assert np.array_equal(packed.s1_desc.doy, direct.s1_desc.doy)


def test_order_follows_the_hash_across_shards(catalogue: Catalogue, tmp_path: Path) -> None:
    params = settings()
    keys = hash_u64(params.seed, all_ids(pack(catalogue, tmp_path, params)))
    assert np.all(np.diff(keys.astype(object)) > 0)


def test_a_batch_mixes_the_tiles_as_a_random_draw_would(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    tiles = all_ids(pack(catalogue, tmp_path, settings())) >> np.uint64(32)
    share = np.bincount(tiles.astype(int)) / len(tiles)
    batches = tiles[: len(tiles) // 64 * 64].reshape(-1, 64).astype(int)
    counts = np.array([np.bincount(batch, minlength=len(share)) for batch in batches])
    expected = 64 * share
    # Pearson's statistic per batch is chi-squared with 5 degrees of freedom: mean 5.
    statistic = ((counts - expected) ** 2 / expected).sum(axis=1)
    assert 3.0 < statistic.mean() < 7.0


def test_packing_twice_gives_the_same_bytes(catalogue: Catalogue, tmp_path: Path) -> None:
    first, second = (pack(catalogue, tmp_path / name, settings()) for name in ("a", "b"))
    assert first.entries == second.entries
    for entry in first.entries:
        assert sha256_of(first.folder / entry.name) == entry.sha256


def test_another_seed_is_another_order(catalogue: Catalogue, tmp_path: Path) -> None:
    one = all_ids(pack(catalogue, tmp_path / "a", settings()))
    two = all_ids(pack(catalogue, tmp_path / "b", settings(seed=2)))
    assert sorted(one) == sorted(two)
    assert not np.array_equal(one, two)


def test_thin_dpixels_are_counted_once_by_their_first_reason(catalogue: Catalogue) -> None:
    tile = read_tile(catalogue.tile(0))
    kept, rejected = accept(tile, 0, settings(min_s2=30, min_s1=40))
    height, width = tile.shape
    assert len(kept) + sum(rejected.values()) == height * width
    assert kept.s2.counts.min() >= 30
    assert kept.s1_counts.min() >= 40


def test_spilled_tiles_are_not_read_again(catalogue: Catalogue, tmp_path: Path) -> None:
    params = settings()
    whole = pack(catalogue, tmp_path / "whole", params)
    spill = tmp_path / "part" / "spill"
    _scatter(catalogue, spill, params)
    # What a kill in the second tile would leave: one finished tile and a half-written one.
    for folder in sorted(spill.iterdir())[1:]:
        (folder / "rejected.json").unlink()
    before = (spill / "000000" / "rejected.json").stat().st_mtime_ns
    resumed = pack(catalogue, tmp_path / "part", params)
    assert (spill / "000000" / "rejected.json").stat().st_mtime_ns == before
    assert resumed.entries == whole.entries
    assert len(read_dpixels(resumed.folder / resumed.entries[0].name)) == resumed.entries[0].rows
