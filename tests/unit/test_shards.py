from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dpixel import DPixels, Series
from tasks.errors import DataError
from tasks.shards import (
    ShardSet,
    read_dpixels,
    read_targets,
    write_dpixels,
    write_index,
    write_targets,
)


def make_series(counts: list[int], num_bands: int, kind: type[np.generic], seed: int) -> Series:
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(offsets[-1])
    values = random.integers(0, 32000, (total, num_bands)).astype(kind)
    return Series(values, random.integers(1, 367, total).astype(np.int16), offsets)


def make_dpixels(counts: list[tuple[int, int, int]], first_id: int = 0) -> DPixels:
    s2, asc, desc = ([c[i] for c in counts] for i in range(3))
    return DPixels(
        np.arange(first_id, first_id + len(counts), dtype=np.uint64),
        make_series(s2, 10, np.uint16, 1),
        make_series(asc, 2, np.int16, 2),
        make_series(desc, 2, np.int16, 3),
    )


def assert_equal(found: DPixels, expected: DPixels) -> None:
    assert np.array_equal(found.pixel_id, expected.pixel_id)
    for name in ("s2", "s1_asc", "s1_desc"):
        a, b = getattr(found, name), getattr(expected, name)
        assert np.array_equal(a.values, b.values)
        assert np.array_equal(a.doy, b.doy)
        assert np.array_equal(a.offsets, b.offsets)


ragged = st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(ragged)
def test_shard_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, counts: list[tuple[int, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.arrow"
    written = make_dpixels(counts)
    write_dpixels(path, written)
    assert_equal(read_dpixels(path), written)


def test_shard_is_ordinary_arrow_with_the_documented_columns(tmp_path: Path) -> None:
    written = make_dpixels([(2, 1, 0), (0, 0, 3)])
    write_dpixels(tmp_path / "a.arrow", written)
    table = pa.ipc.open_file(tmp_path / "a.arrow").read_all()
    first = table.slice(0, 1).to_pylist()[0]
    assert first["s2"] == written.s2.values[:2].reshape(-1).tolist()
    assert first["s2_doy"] == written.s2.doy[:2].tolist()
    assert first["s1_desc"] == []
    assert table.column("s1_desc_doy").to_pylist()[1] == written.s1_desc.doy.tolist()


def test_equal_dpixels_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.arrow", "b.arrow"):
        write_dpixels(tmp_path / name, make_dpixels([(2, 1, 0), (0, 0, 3)]))
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_rows_are_taken_across_shards_in_the_order_asked(tmp_path: Path) -> None:
    parts = [make_dpixels([(1, 2, 3)] * 3), make_dpixels([(2, 0, 1)] * 2, first_id=3)]
    for index, part in enumerate(parts):
        write_dpixels(tmp_path / f"{index}.arrow", part)
    write_index(tmp_path, ["0.arrow", "1.arrow"], {})
    whole = DPixels.concatenate(parts)
    rows = np.array([4, 0, 3, 3, 1])
    assert_equal(ShardSet(tmp_path).take(rows), whole.take(rows))


def test_shard_in_another_band_order_is_refused(tmp_path: Path) -> None:
    write_dpixels(tmp_path / "a.arrow", make_dpixels([(1, 1, 1)]))
    table = pa.ipc.open_file(tmp_path / "a.arrow").read_all()
    other = table.replace_schema_metadata({"s2_bands": "B02 B03 B04", "s1_bands": "VV VH"})
    with pa.ipc.new_file(str(tmp_path / "b.arrow"), other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(DataError, match="found B02 B03 B04"):
        read_dpixels(tmp_path / "b.arrow")


def test_cut_short_shard_is_refused(tmp_path: Path) -> None:
    write_dpixels(tmp_path / "a.arrow", make_dpixels([(3, 3, 3)] * 9))
    content = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "b.arrow").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="a readable Arrow shard"):
        read_dpixels(tmp_path / "b.arrow")


def test_targets_keep_their_rows_and_their_gaps(tmp_path: Path) -> None:
    targets = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    targets[2] = np.nan
    ids = np.array([9, 3, 7, 1, 5], dtype=np.uint64)
    write_targets(tmp_path / "t.arrow", ids, targets)
    found_ids, found = read_targets(tmp_path / "t.arrow")
    assert np.array_equal(found_ids, ids)
    np.testing.assert_allclose(found, targets, atol=2e-3)
    assert np.isnan(found[2]).all()
