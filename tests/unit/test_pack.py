"""Packing as a whole: which d-pixels, in which order, in which files, whatever happens meanwhile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.dpixel import DPixels
from models.hashing import hash_u64
from tasks.errors import DataError, ParamsError
from tasks.files import sha256_of
from tasks.ingest import Catalogue
from tasks.packing.gather import keys_of_ranks
from tasks.packing.scatter import scatter
from tasks.packing.spill import open_runs
from tests.packs import (
    LEAST,
    accepted_of,
    catalogue_of,
    contents,
    make_archive,
    pack_into,
    pack_params,
    read_blocks,
    read_ids,
)
from tests.packs import read_index as index_of


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive") / "data")


@pytest.fixture(scope="module")
def catalogue(archive: Path) -> Catalogue:
    return catalogue_of(archive)


@pytest.fixture(scope="module")
def packed(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_into(catalogue, tmp_path_factory.mktemp("packed"), pack_params())


def test_every_accepted_dpixel_is_there_exactly_once(catalogue: Catalogue, packed: Path) -> None:
    expected = np.concatenate([part.pixel_id for part in accepted_of(catalogue, pack_params())])
    found = read_ids(packed)
    assert len(set(found.tolist())) == len(found)
    assert np.array_equal(np.sort(found), np.sort(expected))


def test_every_packed_dpixel_has_the_observations_of_its_tile(
    catalogue: Catalogue, packed: Path
) -> None:
    direct = DPixels.concatenate(accepted_of(catalogue, pack_params()))
    found = DPixels.concatenate(read_blocks(packed))
    expected = direct.take(np.argsort(direct.pixel_id)[np.argsort(np.argsort(found.pixel_id))])
    assert np.array_equal(found.pixel_id, expected.pixel_id)
    for name in ("s2", "s1_asc", "s1_desc"):
        a, b = getattr(found, name), getattr(expected, name)
        assert np.array_equal(a.values, b.values)
        assert np.array_equal(a.doy, b.doy)
        assert np.array_equal(a.offsets, b.offsets)


def test_the_order_is_that_of_the_hash_across_shards(packed: Path) -> None:
    keys = hash_u64(1, read_ids(packed))
    assert np.all(keys[1:] > keys[:-1])


def test_all_blocks_and_shards_but_the_last_are_full(packed: Path) -> None:
    blocks = [len(block) for block in read_blocks(packed)]
    assert set(blocks[:-1]) == {64}
    assert 0 < blocks[-1] <= 64
    shards = [entry["rows"] for entry in index_of(packed)["shards"]]
    assert set(shards[:-1]) == {384}
    assert len(shards) > 2


def test_a_batch_mixes_the_tiles_as_a_random_draw_would(packed: Path) -> None:
    tiles = (read_ids(packed) >> np.uint64(32)).astype(int)
    share = np.bincount(tiles) / len(tiles)
    batches = tiles[: len(tiles) // 64 * 64].reshape(-1, 64)
    counts = np.array([np.bincount(batch, minlength=len(share)) for batch in batches])
    # Pearson's statistic per batch is chi-squared with 5 degrees of freedom: mean 5.
    statistic = ((counts - 64 * share) ** 2 / (64 * share)).sum(axis=1)
    assert 3.0 < statistic.mean() < 7.0
    ratio = statistic.mean() / (5 * (len(tiles) - 64) / (len(tiles) - 1))
    assert index_of(packed)["mixing"]["batch_rows"] in (64, 128)
    assert index_of(packed)["mixing"]["ratio"] == pytest.approx(ratio, abs=0.5)


def test_the_index_has_the_digest_of_every_shard(packed: Path) -> None:
    for entry in index_of(packed)["shards"]:
        assert entry["sha256"] == sha256_of(packed / entry["name"])


def test_memory_and_threads_change_no_byte(
    catalogue: Catalogue, packed: Path, tmp_path: Path
) -> None:
    params = pack_params(memory_mb=LEAST, threads=3)
    scattered = scatter(catalogue, tmp_path / "work" / "spill", params)
    assert sum(scattered.rows.values()) == len(read_ids(packed))
    assert len(open_runs(tmp_path / "work" / "spill")) > 1
    assert contents(pack_into(catalogue, tmp_path, params)) == contents(packed)


def test_memory_and_threads_are_not_in_a_manifest() -> None:
    settings = pack_params(memory_mb=LEAST, threads=7).model_dump(mode="json")
    assert not {"memory_mb", "threads"} & settings.keys()
    assert {"seed", "rows_per_shard", "block_rows", "min_s2", "min_s1"} <= settings.keys()


def test_another_seed_is_another_order_of_the_same_dpixels(
    catalogue: Catalogue, packed: Path, tmp_path: Path
) -> None:
    one, two = read_ids(packed), read_ids(pack_into(catalogue, tmp_path, pack_params(seed=2)))
    assert np.array_equal(np.sort(one), np.sort(two))
    assert not np.array_equal(one, two)


class Killed(BaseException):
    """Raised at a write, where a kill would end the process."""


def killing(at: int) -> Callable[..., Any]:
    rename, done = Path.replace, iter(range(1, 10**6))

    def replace(path: Path, target: Path) -> Path:
        if next(done) == at:
            raise Killed
        return rename(path, target)

    return replace


def test_attempts_stopped_at_later_and_later_writes_end_with_the_same_bytes(
    catalogue: Catalogue, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, left = pack_params(memory_mb=LEAST), []
    for at in range(1, 100):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killing(at))
            try:
                build = pack_into(catalogue, tmp_path, params)
                break
            except Killed:
                left.append({path.name for path in (tmp_path / "work").rglob("*.*")})
    assert contents(build) == contents(packed)
    # Among the stops was one between a run and its record, and one behind shards.
    assert any("run-00000.bin" in names and "run-00000.json" not in names for names in left)
    assert any("dpixels-00000.arrow" in names for names in left)


def test_what_is_finished_is_not_made_again(catalogue: Catalogue, tmp_path: Path) -> None:
    pack_into(catalogue, tmp_path, pack_params())
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "shards").iterdir()}
    again = pack_into(catalogue, tmp_path, pack_params())
    assert {path: path.stat().st_mtime_ns for path in made} == made
    for path in (path for path in made if path.suffix == ".arrow"):
        assert path.samefile(again / path.name)  # a link: no byte is on the disk twice


def test_a_finished_shard_that_was_cut_short_is_not_taken(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    pack_into(catalogue, tmp_path, pack_params())
    shard = tmp_path / "work" / "shards" / "dpixels-00001.arrow"
    with shard.open("rb+") as stream:
        stream.truncate(shard.stat().st_size - 1)
    with pytest.raises(
        DataError, match=r"run-00000\.bin: .* found no such file.*Remove the folder"
    ):
        pack_into(catalogue, tmp_path, pack_params())
    assert not (tmp_path / "build" / "index.json").exists()


def test_runs_are_removed_once_every_shard_is_there(catalogue: Catalogue, tmp_path: Path) -> None:
    pack_into(catalogue, tmp_path, pack_params())
    assert not list((tmp_path / "work").rglob("*.bin"))


def test_a_run_cut_short_is_named(catalogue: Catalogue, tmp_path: Path) -> None:
    scatter(catalogue, tmp_path / "work" / "spill", pack_params())
    run = tmp_path / "work" / "spill" / "run-00000.bin"
    with run.open("rb+") as stream:
        stream.truncate(run.stat().st_size - 1)
    with pytest.raises(DataError, match=r"run-00000\.bin: expected a run of \d+ bytes"):
        pack_into(catalogue, tmp_path, pack_params())


def test_a_shard_larger_than_the_memory_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"Lower pack\.rows_per_shard, or raise pack\.memory_mb"):
        pack_into(catalogue, tmp_path, pack_params(memory_mb=LEAST, rows_per_shard=6400))
    # Neither is part of what the runs are, so the next attempt goes on behind them.
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("run-*")}
    build = pack_into(catalogue, tmp_path, pack_params(rows_per_shard=6400))
    assert len(index_of(build)["shards"]) == 1
    assert all(path.stat().st_mtime_ns == runs[path] for path in runs if path.exists())


def test_an_archive_of_thin_dpixels_is_refused_with_the_reasons(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"none in the whole archive \(1536 few_optical\)"):
        pack_into(catalogue, tmp_path, pack_params(min_s2=300))


def test_ranks_are_found_exactly_whatever_the_budget(
    catalogue: Catalogue, packed: Path, tmp_path: Path
) -> None:
    scatter(catalogue, tmp_path, pack_params(memory_mb=LEAST))
    keys = hash_u64(1, read_ids(packed))
    ranks = np.array([0, 1, 63, 64, 700, len(keys) - 1])
    for budget in (300, 5000, 10**9):
        assert keys_of_ranks(open_runs(tmp_path), ranks, budget=budget) == keys[ranks].tolist()


def test_a_real_tile_is_packed(shared_data: Path, tmp_path: Path) -> None:
    catalogue = catalogue_of(shared_data / "data" / "be2018")
    build = pack_into(catalogue, tmp_path, pack_params(rows_per_shard=2048, block_rows=256))
    assert index_of(build)["sources"][0]["rows"] == 4096
    assert index_of(build)["observations"]["s1_desc"] == 0
