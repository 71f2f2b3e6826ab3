"""Damaged shards: named, and never read as something else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.dpixel import DPixels
from tasks.errors import ShardDamaged, StorageError
from tasks.shards.index import INDEX, write_index
from tasks.shards.rows import DPIXEL_SCHEMA, encode_dpixels
from tasks.shards.writer import ShardWriter
from tasks.streaming.corpus import open_corpus
from tasks.streaming.damage import Damage, read_skipped
from tests.corpora import make_dpixels
from tests.streams import (
    BLOCK_ROWS,
    STEPS,
    damage_block,
    flip,
    ids_of,
    local,
    rows_of,
    run,
    stream_of,
    write_small,
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A corpus to damage."""
    write_small(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def dpixels(tmp_path: Path) -> DPixels:
    """What was written there."""
    return write_small(tmp_path / "same")


def test_a_flipped_bit_anywhere_in_a_block_is_found_and_named(copy: Path) -> None:
    opened = open_corpus(str(copy), "dpixels")
    shard, block = opened.index.block(7)
    path = copy / shard.name
    whole = path.read_bytes()
    for offset in np.linspace(block.offset, block.offset + block.length - 1, 60).astype(int):
        path.write_bytes(whole)
        flip(path, int(offset))
        fresh = open_corpus(str(copy), "dpixels")
        with pytest.raises(ShardDamaged, match=f"{shard.name}, block 7: expected sha256 .*found"):
            fresh.dpixels(7)
        assert len(fresh.dpixels(8)) == BLOCK_ROWS


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "a file of 2000 bytes"),
    ],
)
def test_a_missing_empty_or_short_shard_stops_the_run_by_name(
    spoil: Callable[[Path], None], found: str, copy: Path, tmp_path: Path
) -> None:
    spoil(copy / "dpixels-00002.arrow")
    with pytest.raises(ShardDamaged, match=f"dpixels-00002.arrow, block .*found {found}"):
        run(stream_of(local(copy), tmp_path))


def test_a_shard_cut_while_it_is_mapped_is_named(copy: Path) -> None:
    opened = open_corpus(str(copy), "dpixels")
    opened.dpixels(0)
    path = copy / "dpixels-00000.arrow"
    with path.open("r+b") as stream:
        stream.truncate(3000)
    with pytest.raises(ShardDamaged, match="found a file of 3000 bytes"):
        opened.dpixels(4)


def test_rows_of_a_skipped_block_are_replaced_by_good_ones_and_recorded(
    copy: Path, dpixels: DPixels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = damage_block(copy, 9)
    skipping: dict[str, Any] = {"on_damage": "skip", "max_damaged_share": 0.1}
    batches = run(stream_of(local(copy), tmp_path, **skipping))
    bad = set(range(9 * BLOCK_ROWS, 10 * BLOCK_ROWS))
    met = 0
    for parts in batches:
        scheduled, found = rows_of(parts), ids_of(parts, dpixels)
        replaced = np.array([row in bad for row in scheduled])
        met += int(replaced.sum())
        exact = ~replaced & (found != -2)
        assert np.array_equal(found[exact], dpixels.pixel_id[scheduled[exact]])
        assert not set(found[replaced] - 1000) & bad
        assert -1 not in found
    assert met > BLOCK_ROWS
    skipped = read_skipped(tmp_path.glob("skipped-*.jsonl"))
    assert {(row["epoch"], row["block"]) for row in skipped} == {(0, 9), (1, 9), (2, 9)}
    assert shard in skipped[0]["where"]
    assert skipped[0]["expected"].startswith("sha256 ")
    assert capsys.readouterr().out.count("skipped: ") == 1


def test_what_stands_in_is_the_same_for_any_number_of_processes(
    copy: Path, dpixels: DPixels, tmp_path: Path
) -> None:
    for block in (3, 9, 20):
        damage_block(copy, block)
    skipping: dict[str, Any] = {"on_damage": "skip", "max_damaged_share": 0.9}
    whole = run(stream_of(local(copy), tmp_path, **skipping))
    halves = [run(stream_of(local(copy), tmp_path, rank, 2, **skipping)) for rank in (0, 1)]
    for step, parts in enumerate(whole):
        expected = list(zip(rows_of(parts), ids_of(parts, dpixels), strict=True))
        found = [
            pair
            for half in halves
            for pair in zip(rows_of(half[step]), ids_of(half[step], dpixels), strict=True)
        ]
        assert sorted(found) == sorted(expected)


def test_more_damage_than_is_allowed_stops_a_run_that_skips(copy: Path, tmp_path: Path) -> None:
    for block in (3, 9, 15):
        damage_block(copy, block)
    with pytest.raises(ShardDamaged, match=r"at most 2 damaged blocks an epoch .*found 3"):
        run(stream_of(local(copy), tmp_path, on_damage="skip", max_damaged_share=0.1))


def test_a_missing_shard_is_skipped_block_by_block(
    copy: Path, dpixels: DPixels, tmp_path: Path
) -> None:
    (copy / "dpixels-00001.arrow").unlink()
    skipping: dict[str, Any] = {"on_damage": "skip", "max_damaged_share": 0.3}
    for parts in run(stream_of(local(copy), tmp_path, **skipping)):
        found = ids_of(parts, dpixels)
        assert not set(found - 1000) & set(range(5 * BLOCK_ROWS, 10 * BLOCK_ROWS))
        assert -1 not in found
    skipped = read_skipped(tmp_path.glob("skipped-*.jsonl"))
    assert {row["block"] for row in skipped} == set(range(5, 10))
    assert {row["found"] for row in skipped} == {"no such file"}


def test_a_corpus_without_any_good_block_stops_even_a_run_that_skips(
    copy: Path, tmp_path: Path
) -> None:
    for path in copy.glob("dpixels-*.arrow"):
        path.unlink()
    with pytest.raises(ShardDamaged, match=r"block \d+: expected bytes .*found no such file"):
        run(stream_of(local(copy), tmp_path, on_damage="skip", max_damaged_share=1.0))


def test_a_short_last_block_never_stands_in_for_another(copy: Path, tmp_path: Path) -> None:
    """The last of 21 blocks is the only good one: to stand in, its 10 rows would be repeated."""
    for block in range(20):
        damage_block(copy, block)
    with pytest.raises(
        ShardDamaged, match=r"or a good block in its place; found sha256 .*30 block"
    ):
        run(stream_of(local(copy), tmp_path, on_damage="skip", max_damaged_share=1.0))


ERROR = ShardDamaged("a", found="b", where="c", mend="d")


def test_a_record_that_a_crash_cut_short_is_mended(tmp_path: Path) -> None:
    record = tmp_path / "skipped-0.jsonl"
    Damage("skip", 5, record).meet(ERROR, 0, 1, 3)
    with record.open("a") as stream:
        stream.write('{"epoch": 0, "blo')
    again = Damage("skip", 5, record)
    again.rewind(0, 2)
    again.meet(ERROR, 0, 1, 3)
    again.meet(ERROR, 0, 2, 1)
    assert [row["block"] for row in read_skipped([record])] == [1, 3]


def test_what_an_epoch_skipped_before_a_crash_counts(tmp_path: Path) -> None:
    record = tmp_path / "skipped-0.jsonl"
    first = Damage("skip", 2, record)
    first.meet(ERROR, 0, 1, 3)
    first.meet(ERROR, 0, 1, 4)
    again = Damage("skip", 2, record)
    again.rewind(0, 2)
    with pytest.raises(ShardDamaged, match=r"at most 2 damaged blocks an epoch .*found 3"):
        again.meet(ERROR, 0, 2, 5)


def test_a_block_that_was_restored_before_its_window_is_read_again_is_not_listed(
    copy: Path, tmp_path: Path
) -> None:
    """The run stopped because of too much damage; the shard is restored, and the run goes on."""
    damage_block(copy, 9)
    skipping: dict[str, Any] = {"on_damage": "skip", "max_damaged_share": 0.0}
    with pytest.raises(ShardDamaged, match="found 1"):
        run(stream_of(local(copy), tmp_path, **skipping))
    assert len(read_skipped(tmp_path.glob("skipped-*.jsonl"))) == 1
    write_small(copy)
    again = stream_of(local(copy), tmp_path, **skipping)
    again.rewind(0)
    run(again)
    assert read_skipped(tmp_path.glob("skipped-*.jsonl")) == []


def test_a_finished_run_that_is_taken_up_again_keeps_what_it_skipped(
    copy: Path, tmp_path: Path
) -> None:
    damage_block(copy, 9)
    skipping: dict[str, Any] = {"on_damage": "skip", "max_damaged_share": 0.1}
    run(stream_of(local(copy), tmp_path, **skipping))
    expected = read_skipped(tmp_path.glob("skipped-*.jsonl"))
    again = stream_of(local(copy), tmp_path, **skipping)
    again.rewind(STEPS)
    again.close()
    assert read_skipped(tmp_path.glob("skipped-*.jsonl")) == expected != []
    for step in range(STEPS):
        resumed = stream_of(local(copy), tmp_path, **skipping)
        resumed.rewind(step)
        for later in range(step, STEPS):
            resumed.parts(later)
        resumed.close()
        assert read_skipped(tmp_path.glob("skipped-*.jsonl")) == expected


def test_a_shard_removed_or_replaced_while_it_is_mapped_is_still_the_one_that_was_opened(
    copy: Path, dpixels: DPixels
) -> None:
    opened, path = open_corpus(str(copy), "dpixels"), copy / "dpixels-00000.arrow"
    opened.dpixels(0)
    for change in (lambda: (copy / "blocks.arrow").replace(path), path.unlink):
        change()
        assert np.array_equal(opened.dpixels(3).pixel_id, dpixels.pixel_id[48:64])


def test_what_is_no_file_is_refused_by_name(copy: Path) -> None:
    with pytest.raises(StorageError, match=r"index.json/index.json: expected to be allowed to re"):
        open_corpus(str(copy / INDEX), "dpixels")
    opened, path = open_corpus(str(copy), "dpixels"), copy / "dpixels-00000.arrow"
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match=r"dpixels-00000.arrow: .*found .*Is a directory"):
        opened.dpixels(0)


def test_a_block_of_other_rows_than_its_index_says_is_damaged(copy: Path) -> None:
    """The bytes are those that the index pins; it was written of other blocks than it says."""
    whole = make_dpixels(64, seed=1)
    with ShardWriter(copy / "dpixels-00000.arrow", DPIXEL_SCHEMA) as writer:
        for rows in ((0, 16), (16, 20), (20, 36)):
            writer.add(encode_dpixels(whole.slice(*rows)))
        entry = replace(writer.finish(), rows=48)
    write_index(copy, "dpixels", 16, [(entry, [replace(b, rows=16) for b in writer.blocks])], {})
    with pytest.raises(ShardDamaged, match="block 1: expected a block of 16 dpixels; found 4 rows"):
        open_corpus(str(copy), "dpixels").dpixels(1)
