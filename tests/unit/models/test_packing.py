from collections import Counter

import numpy as np
import pytest

from models.buckets import ladder, resample_indices
from models.dpixel import offsets_of
from models.packing import Chunk, log_copies, pack

LADDER = ladder(8, 64)


def counts_and_chunks(seed: int, max_tokens: int) -> tuple[np.ndarray, list[Chunk]]:
    counts = np.random.default_rng(seed).integers(0, 90, 200)
    return counts, list(pack(offsets_of(counts), LADDER, max_tokens))


@pytest.mark.parametrize(("n", "bucket"), [(1, 8), (3, 8), (5, 8), (7, 8), (9, 16), (20, 24)])
def test_copies_are_counted_as_the_bucket_repeats_them(n: int, bucket: int) -> None:
    counted = Counter(resample_indices(n, bucket).tolist())
    expected = np.log([counted[i] for i in range(n)])
    logs = log_copies(n, bucket)
    if logs is None:  # equally often: no softmax notices
        np.testing.assert_array_equal(expected, expected[0])
    else:
        np.testing.assert_allclose(logs, expected, atol=1e-7)


def test_observations_repeated_equally_often_need_no_weights() -> None:
    assert log_copies(4, 8) is None
    assert log_copies(8, 8) is None
    assert log_copies(300, 256) is None


@pytest.mark.parametrize("max_tokens", [1, 100, 2048, 10**6])
def test_every_observed_pixel_is_in_one_chunk_with_all_its_observations(max_tokens: int) -> None:
    counts, chunks = counts_and_chunks(1, max_tokens)
    offsets = offsets_of(counts)
    seen = np.concatenate([chunk.rows for chunk in chunks])
    assert sorted(seen.tolist()) == np.flatnonzero(counts).tolist()
    for chunk in chunks:
        for run in chunk.runs:
            index = chunk.index[run.tokens].reshape(run.num_rows, run.length)
            for row, found in zip(chunk.rows[run.rows], index, strict=True):
                assert run.length == min(counts[row], 64)
                expected = np.arange(counts[row])
                if counts[row] > 64:
                    expected = np.linspace(0, counts[row] - 1, 64).astype(int)
                assert (found - offsets[row]).tolist() == expected.tolist()


def test_chunks_are_no_longer_than_asked_unless_one_pixel_is() -> None:
    _, chunks = counts_and_chunks(2, 100)
    for chunk in chunks:
        assert len(chunk.index) <= 100
    _, chunks = counts_and_chunks(2, 10)
    assert all(len(chunk.index) <= 10 or len(chunk.rows) == 1 for chunk in chunks)


def test_runs_follow_each_other_without_a_gap() -> None:
    _, chunks = counts_and_chunks(3, 500)
    for chunk in chunks:
        token = row = 0
        for run in chunk.runs:
            assert (run.rows.start, run.tokens.start) == (row, token)
            row, token = run.rows.stop, run.tokens.stop
        assert (row, token) == (len(chunk.rows), len(chunk.index))


def test_chunks_are_nearly_full() -> None:
    _, chunks = counts_and_chunks(4, 1000)
    assert all(len(chunk.index) > 1000 - 64 for chunk in chunks[:-1])


def test_nothing_observed_is_no_chunk() -> None:
    assert list(pack(offsets_of(np.zeros(5, int)), LADDER, 100)) == []


def test_chunk_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        list(pack(offsets_of(np.ones(2, int)), LADDER, 0))
