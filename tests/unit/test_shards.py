import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dpixel import DPixels, Series, offsets_of
from tasks.errors import DataError, ParamsError
from tasks.files import sha256_of
from tasks.shards.index import BLOCKS, INDEX, Index, parse_index, write_index
from tasks.shards.rows import (
    DPIXEL_SCHEMA,
    decode_dpixels,
    decode_targets,
    encode_dpixels,
    encode_targets,
    target_schema,
)
from tasks.shards.taking import take_dpixels
from tasks.shards.writer import ShardWriter
from tests.corpora import make_dpixels

Counts = list[tuple[int, int, int]]


def make_series(counts: list[int], num_bands: int, kind: type[np.generic], seed: int) -> Series:
    random = np.random.default_rng(seed)
    total = sum(counts)
    values = random.integers(0, 32000, (total, num_bands)).astype(kind)
    days = random.integers(1, 367, total).astype(np.int16)
    return Series(values, days, offsets_of(np.array(counts)))


def of_counts(counts: Counts, first_id: int = 0) -> DPixels:
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
        for field in ("values", "doy", "offsets"):
            assert np.array_equal(getattr(a, field), getattr(b, field))
            assert getattr(a, field).dtype == getattr(b, field).dtype


def write(path: Path, *blocks: DPixels) -> ShardWriter:
    with ShardWriter(path, DPIXEL_SCHEMA) as writer:
        for block in blocks:
            writer.add(encode_dpixels(block))
        writer.finish()
    return writer


def write_folder(folder: Path, num: int = 2) -> tuple[list[DPixels], Index]:
    shards, blocks = [], []
    for number in range(num):
        parts = [make_dpixels(3, seed=number * 2), make_dpixels(2, seed=number * 2 + 1)]
        with ShardWriter(folder / f"{number}.arrow", DPIXEL_SCHEMA) as writer:
            for part in parts:
                writer.add(encode_dpixels(part))
            shards.append((writer.finish(), writer.blocks))
        blocks += parts
    write_index(folder, "dpixels", 3, shards, {"seed": 4})
    return blocks, read(folder)


def read(folder: Path) -> Index:
    return parse_index((folder / INDEX).read_bytes(), (folder / BLOCKS).read_bytes(), "here")


ragged = st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(ragged, st.integers(1, 20))
def test_blocks_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, counts: Counts, rows: int
) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.arrow"
    written = of_counts(counts)
    starts = range(0, len(written), rows)
    write(path, *(written.slice(start, start + rows) for start in starts))
    file = pa.ipc.open_file(path)
    assert file.num_record_batches == len(starts)
    for number, start in enumerate(starts):
        expected = written.slice(start, start + rows)
        assert_equal(decode_dpixels(file.get_batch(number)), expected)


def test_shard_is_ordinary_arrow_with_the_documented_columns(tmp_path: Path) -> None:
    written = of_counts([(2, 1, 0), (0, 0, 3)])
    write(tmp_path / "a.arrow", written)
    first, second = pa.ipc.open_file(tmp_path / "a.arrow").read_all().to_pylist()
    assert [seen["values"] for seen in first["s2"]] == written.s2.values[:2].tolist()
    assert [seen["doy"] for seen in first["s2"]] == written.s2.doy[:2].tolist()
    assert first["s1_desc"] == second["s2"] == []
    assert [seen["doy"] for seen in second["s1_desc"]] == written.s1_desc.doy.tolist()


def test_a_decoded_block_shares_the_memory_of_the_batch() -> None:
    batch = encode_dpixels(make_dpixels(5, seed=1, least=1))
    allocated = pa.total_allocated_bytes()
    found = decode_dpixels(batch)
    assert pa.total_allocated_bytes() == allocated
    assert not found.s2.values.flags.owndata


def test_equal_dpixels_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.arrow", "b.arrow"):
        write(tmp_path / name, of_counts([(2, 1, 0), (0, 0, 3)]))
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_each_block_lies_where_it_is_said_and_has_the_digest_that_is_said(tmp_path: Path) -> None:
    blocks, index = write_folder(tmp_path)
    assert index.num_blocks == len(blocks) == 4
    assert index.rows == 10
    schema = pa.ipc.open_file(tmp_path / "0.arrow").schema
    for number, expected in enumerate(blocks):
        shard, block = index.block(number)
        content = (tmp_path / shard.name).read_bytes()[block.offset : block.offset + block.length]
        assert sha256(content).digest() == block.sha256
        assert block.rows == len(expected)
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(content), schema)
        assert_equal(decode_dpixels(batch), expected)


def test_digest_and_size_of_a_shard_are_those_of_its_file(tmp_path: Path) -> None:
    _, index = write_folder(tmp_path)
    for entry in index.shards:
        assert entry.sha256 == sha256_of(tmp_path / entry.name)
        assert entry.size == (tmp_path / entry.name).stat().st_size


def test_an_unfinished_shard_has_no_name(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.arrow", DPIXEL_SCHEMA) as writer:
        writer.add(encode_dpixels(make_dpixels(3, seed=1)))
    assert not (tmp_path / "a.arrow").exists()


def test_the_index_keeps_what_the_writer_recorded(tmp_path: Path) -> None:
    _, index = write_folder(tmp_path)
    assert index.facts == {"seed": 4}
    assert (index.kind, index.block_rows) == ("dpixels", 3)


def test_an_index_of_another_format_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    content = (tmp_path / INDEX).read_bytes().replace(b"tessera-shards/2", b"tessera-shards/1")
    with pytest.raises(DataError, match="found format tessera-shards/1"):
        parse_index(content, (tmp_path / BLOCKS).read_bytes(), "here")


def test_blocks_of_another_corpus_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    write_folder(tmp_path / "a")
    write_folder(tmp_path / "b", num=1)
    index, blocks = (tmp_path / "a" / INDEX).read_bytes(), (tmp_path / "b" / BLOCKS).read_bytes()
    with pytest.raises(DataError, match="another digest than the index says"):
        parse_index(index, blocks, "here")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b'{"format": "tessera-shards/2"}'])
def test_what_is_no_index_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="expected an index of format"):
        parse_index(content, b"", "here")


def forge(folder: Path, table: pa.Table, **entry: object) -> tuple[bytes, bytes]:
    """Return an index and blocks whose digests fit, as somebody who can write files makes them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    blocks = sink.getvalue().to_pybytes()
    content = json.loads((folder / INDEX).read_bytes())
    content["shards"][0] |= entry
    content["blocks"]["sha256"] = sha256(blocks).hexdigest()
    return json.dumps(content).encode(), blocks


def test_blocks_of_other_columns_or_with_gaps_are_refused(tmp_path: Path) -> None:
    _, index = write_folder(tmp_path)
    rows = index.blocks.to_pylist()
    gaps = pa.Table.from_pylist([*rows[1:], rows[0] | {"offset": None}], index.blocks.schema)
    for table, found in (
        (index.blocks.drop_columns("offset"), "the columns shard"),
        (gaps, "gaps"),
    ):
        with pytest.raises(DataError, match=f"found blocks.arrow with {found}"):
            parse_index(*forge(tmp_path, table), "here")


@pytest.mark.parametrize("entry", [{"name": 5}, {"rows": "7"}, {"size": None}, {"sha256": []}])
def test_an_entry_of_other_types_is_refused(tmp_path: Path, entry: dict[str, object]) -> None:
    _, index = write_folder(tmp_path)
    assert parse_index(*forge(tmp_path, index.blocks), "here").shards == index.shards
    with pytest.raises(DataError, match=f"found {next(iter(entry))} .* of a shard"):
        parse_index(*forge(tmp_path, index.blocks, **entry), "here")


def test_more_observations_than_offsets_can_count_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.shards.rows._MOST_OBSERVATIONS", 5)
    encode_dpixels(of_counts([(2, 1, 0), (3, 0, 5)]))
    with pytest.raises(ParamsError, match=r"found 6 in 2 rows\. Lower pack\.block_rows"):
        encode_dpixels(of_counts([(2, 1, 0), (4, 0, 5)]))


@settings(max_examples=50, deadline=None)
@given(ragged, st.data())
def test_rows_taken_as_bytes_are_those_taken_one_by_one(
    counts: Counts, data: st.DataObject
) -> None:
    dpixels = of_counts(counts)
    places = st.lists(st.integers(0, len(counts) - 1), max_size=30)
    rows = np.array(data.draw(places), np.int64)
    assert_equal(take_dpixels(dpixels, rows), dpixels.take(rows))


def test_a_slice_can_be_taken_from() -> None:
    dpixels = make_dpixels(20, seed=3)
    rows = np.array([4, 0, 3])
    assert_equal(take_dpixels(dpixels.slice(7, 13), rows), dpixels.take(rows + 7))


def test_targets_keep_their_rows_and_their_gaps() -> None:
    targets = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    targets[2] = np.nan
    ids = np.array([9, 3, 7, 1, 5], dtype=np.uint64)
    found_ids, found = decode_targets(encode_targets(ids, targets, target_schema(7)))
    assert np.array_equal(found_ids, ids)
    np.testing.assert_allclose(found.astype(np.float32), targets, atol=2e-3)
    assert np.isnan(found[2]).all()
