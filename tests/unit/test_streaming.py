"""Streaming from a folder: which rows come, in which order, to whom, and what is read for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bands import NORMALISATIONS
from models.dpixel import DPixels
from models.pools import pool_s1, pool_s2, scales
from models.views import draw_view
from tasks.errors import DataError, LineageError, ParamsError, StorageError
from tasks.streaming.corpus import open_corpus
from tasks.streaming.stores import LocalStore, Store, open_store
from tasks.streaming.windows import Source
from tests.corpora import write_target_corpus
from tests.streams import (
    BLOCK_ROWS,
    ROWS,
    STEPS,
    local,
    rows_of,
    run,
    seeds_of,
    settings,
    stream_of,
    write_small,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_small(folder)
    return folder


@pytest.fixture(scope="module")
def dpixels(tmp_path_factory: pytest.TempPathFactory) -> DPixels:
    return write_small(tmp_path_factory.mktemp("same"))


def test_every_step_draws_its_views_as_from_the_whole_corpus_in_memory(
    corpus: Path, dpixels: DPixels, tmp_path: Path
) -> None:
    s2_scale, s1_scale = scales(NORMALISATIONS["tessera-v2-student"])
    whole_s2, whole_s1 = pool_s2([dpixels]), pool_s1([dpixels])
    stream = stream_of(local(corpus), tmp_path)
    for step in range(STEPS):
        for part in stream.parts(step):
            for held, whole, scale in (
                (part.held.s2, whole_s2, s2_scale),
                (part.held.s1, whole_s1, s1_scale),
            ):
                found = draw_view(held, part.at, 8, part.seeds, scale)
                expected = draw_view(whole, part.rows, 8, part.seeds, scale)
                assert np.array_equal(found[0], expected[0])
                assert np.array_equal(found[1], expected[1])
    stream.close()


def test_an_epoch_has_no_row_twice_and_the_next_one_another_order(
    corpus: Path, tmp_path: Path
) -> None:
    stream = stream_of(local(corpus), tmp_path)
    assert stream.epoch_steps == 10  # 328 positions in batches of 32
    first, second = (
        np.concatenate([rows_of(stream.parts(step)) for step in steps])
        for steps in (range(10), range(10, 20))
    )
    stream.close()
    assert len(np.unique(first)) == len(first) == 320
    assert len(np.unique(second)) == 320
    assert not np.array_equal(first, second)
    assert set(first) != set(second)


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_processes_has_the_same_batches_and_partners(
    world: int, corpus: Path, tmp_path: Path
) -> None:
    whole = stream_of(local(corpus), tmp_path)
    parts = [stream_of(local(corpus), tmp_path, rank, world) for rank in range(world)]
    for step in range(STEPS):
        expected = rows_of(whole.parts(step)).reshape(-1, 2)
        found = [rows_of(part.parts(step)).reshape(-1, 2) for part in parts]
        assert {len(pairs) for pairs in found} == {len(expected) // world}
        together = np.concatenate(found)
        assert sorted(map(tuple, together)) == sorted(map(tuple, expected))
        by_row = dict(zip(rows_of(whole.parts(step)), seeds_of(whole.parts(step)), strict=True))
        for part in parts:
            for row, seed in zip(
                rows_of(part.parts(step)), seeds_of(part.parts(step)), strict=True
            ):
                assert by_row[row] == seed
    for stream in (whole, *parts):
        stream.close()


def test_a_run_that_begins_at_any_step_goes_on_exactly(corpus: Path, tmp_path: Path) -> None:
    source = local(corpus)
    whole = stream_of(source, tmp_path)
    expected = [(rows_of(p), seeds_of(p)) for p in map(whole.parts, range(STEPS))]
    whole.close()
    for start in range(STEPS):
        again = stream_of(source, tmp_path)
        for step in range(start, min(start + 3, STEPS)):
            rows, seeds = expected[step]
            assert np.array_equal(rows_of(again.parts(step)), rows)
            assert np.array_equal(seeds_of(again.parts(step)), seeds)
        again.close()


def test_a_rows_draws_do_not_depend_on_batch_lanes_or_windows(corpus: Path, tmp_path: Path) -> None:
    seen: dict[int, int] = {}
    for changes in ({}, {"batch_size": 64}, {"lanes": 4, "window_blocks": 5}):
        stream = stream_of(local(corpus), tmp_path, **changes)
        for step in range(stream.epoch_steps):
            parts = stream.parts(step)
            for row, seed in zip(rows_of(parts).tolist(), seeds_of(parts).tolist(), strict=True):
                assert seen.setdefault(row, seed) == seed
        stream.close()
    assert len(set(seen.values())) == len(seen)


def test_targets_come_with_their_rows(dpixels: DPixels, corpus: Path, tmp_path: Path) -> None:
    targets = np.arange(ROWS, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    write_target_corpus(tmp_path / "t", dpixels.pixel_id, targets, block_rows=BLOCK_ROWS)
    source = Source(
        open_corpus(str(corpus), "dpixels"), open_corpus(str(tmp_path / "t"), "targets")
    )
    stream = stream_of(source, tmp_path)
    for step in range(stream.epoch_steps):
        for part in stream.parts(step):
            assert part.held.targets is not None
            assert np.array_equal(part.held.targets[part.at, 3], part.rows.astype(np.float16))
    stream.close()


def test_targets_of_other_pixels_are_refused(
    dpixels: DPixels, corpus: Path, tmp_path: Path
) -> None:
    targets = np.zeros((ROWS, 4), np.float32)
    other = dpixels.pixel_id.copy()
    other[[100, 101]] = other[[101, 100]]
    write_target_corpus(tmp_path / "t", other, targets, block_rows=BLOCK_ROWS)
    source = Source(
        open_corpus(str(corpus), "dpixels"), open_corpus(str(tmp_path / "t"), "targets")
    )
    stream = stream_of(source, tmp_path)
    with pytest.raises(LineageError, match=r"targets-00000.arrow, block 6: .*other pixel ids"):
        run(stream)
    write_target_corpus(tmp_path / "u", dpixels.pixel_id, targets, block_rows=32)
    with pytest.raises(LineageError, match="330 rows in blocks of 32"):
        Source(source.dpixels, open_corpus(str(tmp_path / "u"), "targets"))


class Counting:
    """A store that counts what is read from a folder."""

    readers = 2

    def __init__(self, folder: Path, fault: Callable[[str], None] = lambda _: None) -> None:
        self._inner: Store = LocalStore(folder)
        self.where, self.reads, self._fault = str(folder), list[tuple[str, int]](), fault

    def read(self, name: str, offset: int, length: int) -> Any:
        self._fault(name)
        self.reads.append((name, offset))
        return self._inner.read(name, offset, length)

    def whole(self, name: str) -> bytes:
        return self._inner.whole(name)

    def release(self) -> None:
        self._inner.release()


def counting(corpus: Path, store: Counting) -> Source:
    opened = open_corpus(str(corpus), "dpixels")
    object.__setattr__(opened, "store", store)
    return Source(opened)


def test_an_epoch_reads_no_whole_block_twice(corpus: Path, tmp_path: Path) -> None:
    store = Counting(corpus)
    stream = stream_of(counting(corpus, store), tmp_path, steps=10)
    for step in range(10):
        stream.parts(step)
    stream.close()
    assert len(store.reads) == len(set(store.reads)) == 21


def test_only_the_next_window_is_read_ahead(corpus: Path, tmp_path: Path) -> None:
    store = Counting(corpus)
    stream = stream_of(counting(corpus, store), tmp_path, lanes=4, window_blocks=1)
    stream.parts(0)
    stream.close()  # waits for what has begun
    # The loose rows of 4 lanes lie in few blocks, and 32 rows need one window of 4 blocks more.
    assert len(store.reads) <= 2 + 3 * 4


def test_a_store_that_does_not_answer_stops_even_a_run_that_skips(
    corpus: Path, tmp_path: Path
) -> None:
    def fault(name: str) -> None:
        raise StorageError("an answer", found="none", where=name, mend="Try again.")

    source = counting(corpus, Counting(corpus, fault))
    stream = stream_of(source, tmp_path, on_damage="skip", max_damaged_share=1.0)
    with pytest.raises(StorageError, match="expected an answer"):
        stream.parts(0)
    stream.close()


def test_a_corpus_smaller_than_a_batch_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="batch of 336 d-pixels; found 330 in the shards"):
        stream_of(local(corpus), tmp_path, batch_size=336)


def test_lanes_that_processes_cannot_share_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="twice the processes, 6; found 8"):
        stream_of(local(corpus), tmp_path, 0, 3)
    with pytest.raises(ValueError, match=r"stream\.lanes 8 is not a multiple of twice the proc"):
        settings(processes=3)
    with pytest.raises(ValueError, match=r"batch_size 36 is not a multiple of stream\.lanes 8"):
        settings(batch_size=36)


@pytest.mark.parametrize("where", ["http://host/pack", "file:///pack", "s3+x::s3://b/pack"])
def test_other_addresses_are_refused(where: str) -> None:
    with pytest.raises(ParamsError, match="a folder or s3://bucket/prefix"):
        open_store(where)


def test_one_seed_has_one_order(corpus: Path, tmp_path: Path) -> None:
    streams = [stream_of(local(corpus), tmp_path, seed=seed) for seed in (1, 2)]
    one, two = (rows_of(stream.parts(0)) for stream in streams)
    for stream in streams:
        stream.close()
    assert not np.array_equal(one, two)
