"""What enters a corpus from tiles and tables, and what is said of the rest."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.tiles import write_region, write_tile
from models.dpixel import DPixels
from tasks.errors import DataError
from tasks.ingest import Catalogue
from tasks.packing.scatter import Collected
from tasks.packing.sources import Piece, accept
from tasks.tiles import dpixels_of, read_tile
from tests.corpora import make_dpixels
from tests.packs import (
    LEAST,
    accepted_of,
    catalogue_of,
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


def test_thin_dpixels_are_counted_once_by_their_first_reason(catalogue: Catalogue) -> None:
    tile = read_tile(catalogue.tile(0))
    dpixels = dpixels_of(tile, np.arange(tile.region.size), 0)
    kept, rejected = accept(dpixels, pack_params(min_s2=30, min_s1=40))
    assert len(kept) + sum(rejected.values()) == len(dpixels)
    assert kept.s2.counts.min() >= 30
    assert kept.s1_counts.min() >= 40
    thin = dpixels.s2.counts < 30
    assert rejected["few_optical"] == thin.sum()
    assert rejected["few_radar"] == (~thin & (dpixels.s1_counts < 40)).sum()


def test_the_index_counts_what_was_left_out_by_reason_and_source(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    build = pack_into(catalogue, tmp_path, pack_params(min_s2=25, memory_mb=LEAST))
    index, total = index_of(build), Counter[str]()
    owners = np.bincount((read_ids(build) >> np.uint64(32)).astype(int))
    for number, entry in enumerate(catalogue.entries):
        found = index["sources"][number]
        assert found["key"] == entry.key
        assert found["rows"] == owners[number]
        assert found["rows"] + sum(found["rejected"].values()) == 256
        total.update(found["rejected"])
    assert {reason: n for reason, n in index["rejected"].items() if n} == +total
    assert index["rejected"]["few_optical"] > 0


def test_pixels_outside_the_region_are_counted_and_never_read(
    archive: Path, tmp_path: Path
) -> None:
    shutil.copytree(archive, tmp_path / "data")
    region = np.zeros((16, 16), np.uint8)
    region[5:9, 3:11] = 1
    write_region(tmp_path / "data" / "tiles" / "2021" / "0_0_16_16" / "roi.tiff", region)
    catalogue = catalogue_of(tmp_path / "data")
    build = pack_into(catalogue, tmp_path / "out", pack_params())
    index = index_of(build)
    first = [source["key"] for source in index["sources"]].index("2021/0_0_16_16")
    assert index["sources"][first]["rejected"]["outside"] == 256 - 4 * 8
    ids = read_ids(build)
    pixels = (ids[ids >> np.uint64(32) == first] & np.uint64(2**32 - 1)).astype(int)
    assert region.reshape(-1)[pixels].all()


def test_an_archive_of_clouds_is_not_said_to_be_thin(tmp_path: Path) -> None:
    write_tile(tmp_path / "data" / "0", 4, dates=2, passes=0)
    np.save(tmp_path / "data" / "0" / "masks.npy", np.zeros((2, 4, 4), np.uint8))
    catalogue = catalogue_of(tmp_path / "data")
    with pytest.raises(DataError, match=r"\(16 empty\)\. Look into the archive"):
        pack_into(catalogue, tmp_path / "out", pack_params(min_s2=0, min_s1=0))


def test_what_is_left_out_is_counted_where_nothing_is_packed(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "data")
    last = catalogue_of(tmp_path / "data").entries[-1].key
    write_region(tmp_path / "data" / "tiles" / last / "roi.tiff", np.zeros((16, 16), np.uint8))
    build = pack_into(catalogue_of(tmp_path / "data"), tmp_path / "out", pack_params())
    source = index_of(build)["sources"][-1]
    assert (source["key"], source["rows"]) == (last, 0)
    assert source["rejected"]["outside"] == 256


def test_pieces_without_any_dpixel_do_not_pile_up(catalogue: Catalogue) -> None:
    tile = read_tile(catalogue.tile(0))
    nothing = Piece(dpixels_of(tile, np.arange(0), 0), Counter(outside=1000), 0)
    collected = Collected()
    for _ in range(10):
        collected.add(0, nothing)
    assert len(collected.parts) == 1
    assert collected.rejected[0]["outside"] == 10_000


def test_bytes_are_compared_with_the_raw_dates(catalogue: Catalogue, packed: Path) -> None:
    found, rows, raw = index_of(packed)["bytes"], 0, 0
    for index, part in enumerate(accepted_of(catalogue, pack_params())):
        tile = read_tile(catalogue.tile(index))
        dates = sum(len(doys) for _, doys in tile.radar.values())
        raw += len(part) * (23 * len(tile.doys) + 6 * dates)
        rows += len(part)
    assert found["raw_per_dpixel"] == pytest.approx(raw / rows)
    size = sum(path.stat().st_size for path in packed.glob("dpixels-*.arrow"))
    assert found["per_dpixel"] == pytest.approx(size / rows)
    assert found["two_view_chunks_per_dpixel"] == 4480


def write_points(path: Path, dpixels: DPixels) -> None:
    columns: dict[str, Any] = {"pixel_id": [f"p{row}" for row in range(len(dpixels))]}
    for name in ("s2", "s1_asc", "s1_desc"):
        series = getattr(dpixels, name)
        parts = [series.slice(row, row + 1) for row in range(len(dpixels))]
        columns[name] = [part.values.reshape(-1).tolist() for part in parts]
        columns[f"{name}_doy"] = [part.doy.tolist() for part in parts]
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_rows_of_a_point_table_are_shuffled_in_with_the_tiles(
    archive: Path, packed: Path, tmp_path: Path
) -> None:
    shutil.copytree(archive, tmp_path / "data")
    rows = make_dpixels(300, seed=3)
    write_points(tmp_path / "data" / "points" / "sites.parquet", rows)
    catalogue = catalogue_of(tmp_path / "data")
    build = pack_into(catalogue, tmp_path / "out", pack_params())
    found = DPixels.concatenate(read_blocks(build))
    of_table = np.flatnonzero(found.pixel_id >> np.uint64(32) == len(catalogue))
    expected, _ = accept(rows, pack_params())
    entry = index_of(build)["sources"][len(catalogue)]
    assert entry["key"] == "points/sites"
    assert len(of_table) == entry["rows"] == len(expected)
    assert len(found) == len(read_ids(packed)) + len(expected)
    row = found.take(of_table[:1])
    number = int(row.pixel_id[0] & np.uint64(2**32 - 1))
    assert np.array_equal(row.s2.values, rows.take(np.array([number])).s2.values)
    assert np.ptp(of_table) > 0.8 * len(found)
