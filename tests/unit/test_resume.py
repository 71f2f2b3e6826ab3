"""Runs killed at every step and at every write, and gone on with."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.corpora import make_dpixels, write_corpus
from tests.training_objectives import Planted, teacher
from tests.training_runs import Ended, Kill, run, small

pytestmark = pytest.mark.slow

DRAWING = Planted(draws=True)
"""Draws from the generators of torch, numpy and Python, as an objective may."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(folder, make_dpixels(60, seed=0), block_rows=10, shard_blocks=3)
    return folder


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """An uninterrupted run."""
    return run(tmp_path_factory.mktemp("whole"), corpus, small(), objective=DRAWING)


@pytest.fixture(scope="module")
def whole_of_two(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """An uninterrupted run of two processes."""
    work = tmp_path_factory.mktemp("two")
    return run(work, corpus, small(processes=2), objective=DRAWING)


def assert_same(found: Ended, expected: Ended) -> None:
    """Hold records and weights against each other, to the bit."""
    assert set(found.codes) == {0}, found.error
    records = (found.work / "records.jsonl").read_bytes()
    assert records == (expected.work / "records.jsonl").read_bytes()
    weights = expected.weights
    assert found.weights.keys() == weights.keys()
    assert all(np.array_equal(found.weights[name], weights[name]) for name in weights)
    assert found.checkpoints == expected.checkpoints
    left = [path.name for path in (found.work / "checkpoints").iterdir() if path.name[0] == "."]
    assert left == []


@pytest.mark.parametrize("batch", range(1, 9))
def test_killed_at_any_step_a_run_goes_on_to_the_same_bytes(
    batch: int, corpus: Path, whole: Ended, tmp_path: Path
) -> None:
    killed = run(tmp_path, corpus, small(), objective=DRAWING, kill=Kill(batch=batch))
    assert killed.codes == [-9]
    again = run(tmp_path, corpus, small(), objective=DRAWING)
    assert_same(again, whole)
    assert [event["step"] for event in again.events] == ([batch // 3 * 3] if batch >= 3 else [])


def test_killed_at_every_write_of_a_save_a_run_goes_on_to_the_same_bytes(
    corpus: Path, whole: Ended, tmp_path: Path
) -> None:
    """At all from the third save on, when one is there and one is retired, and at some before."""
    writes = whole.writes()
    saved = [at for at, write in enumerate(writes) if write.endswith("/latest.json")]
    assert len(saved) == 4
    # The first two saves are as the third, but that none is retired.
    for at in (*range(1, saved[1] + 2, 5), *range(saved[1] + 2, len(writes) + 1)):
        work = tmp_path / str(at)
        killed = run(work, corpus, small(), objective=DRAWING, kill=Kill(write=at))
        assert killed.codes == [-9], writes[at - 1]
        assert_same(run(work, corpus, small(), objective=DRAWING), whole)
        shutil.rmtree(work)


def test_killed_again_and_again_a_run_ends_all_the_same(
    corpus: Path, whole: Ended, tmp_path: Path
) -> None:
    for kill in (Kill(write=-20), Kill(batch=5), Kill(write=9), Kill(batch=7)):
        killed = run(tmp_path, corpus, small(), objective=DRAWING, kill=kill)
        assert killed.codes == [-9]
    assert_same(run(tmp_path, corpus, small(), objective=DRAWING), whole)


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_processes_killed_in_a_save_leaves_no_checkpoint_that_looks_whole(
    rank: int, stage: int, corpus: Path, tmp_path: Path
) -> None:
    params = small(processes=2, steps=6, deepspeed=f"infra/deepspeed/zero{stage}.json")
    expected = run(tmp_path / "whole", corpus, params, objective=DRAWING)
    own = [at for at, line in enumerate(expected.writes(rank), 1) if "/.writing/" in line]
    last = own[len(own) * 2 // 3 :]
    for at in (last[0], -last[-1]):
        work = tmp_path / f"killed-{at}"
        killed = run(work, corpus, params, objective=DRAWING, kill=Kill(write=at, rank=rank))
        assert killed.codes[rank] == -9
        assert killed.codes[1 - rank] not in (0, None)
        assert "step-00000006" not in killed.checkpoints
        assert_same(run(work, corpus, params, objective=DRAWING), expected)


def test_two_processes_killed_at_any_step_go_on_to_the_same_bytes(
    corpus: Path, whole_of_two: Ended, tmp_path: Path
) -> None:
    for batch in (2, 4, 7):
        work = tmp_path / str(batch)
        kill = Kill(batch=batch, rank=batch % 2)
        run(work, corpus, small(processes=2), objective=DRAWING, kill=kill)
        again = run(work, corpus, small(processes=2), objective=DRAWING)
        assert_same(again, whole_of_two)


@pytest.mark.parametrize("stage", [2, 3])
def test_the_teacher_in_bfloat16_goes_on_to_the_same_bytes_at_every_stage(
    stage: int, corpus: Path, tmp_path: Path
) -> None:
    params = small(precision="bfloat16", deepspeed=f"infra/deepspeed/zero{stage}.json")
    expected = run(tmp_path / "whole", corpus, params, objective=teacher)
    run(tmp_path / "killed", corpus, params, objective=teacher, kill=Kill(batch=7))
    assert_same(run(tmp_path / "killed", corpus, params, objective=teacher), expected)


def test_how_a_run_is_carried_out_may_change_in_its_middle(
    corpus: Path, whole: Ended, tmp_path: Path
) -> None:
    run(tmp_path, corpus, small(), objective=DRAWING, kill=Kill(batch=4))
    again = run(tmp_path, corpus, small(checkpoint_every=5, keep_last=3), objective=DRAWING)
    assert again.records == whole.records
    assert again.checkpoints == ["step-00000003", "step-00000005", "step-00000009"]
