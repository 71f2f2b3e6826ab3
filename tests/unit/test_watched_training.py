"""What is seen of real trainings: their diagnostics, their speed, and that equal runs stay equal."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tasks.training.metering import SPEED
from tests.corpora import make_dpixels, write_corpus
from tests.training_objectives import teacher
from tests.training_runs import REPOSITORY, Ended, run, small

pytestmark = pytest.mark.slow

OF_EVERY_STEP = {"correlation_diagonal", "correlation_off_diagonal"}
OF_A_LOOK = {"effective_rank", "effective_rank_share", "variance_mean", "variance_min"}
STEPS, ROWS = 12, 16
CLOCKS = {"seconds", "cpu_seconds", "utilisation", "peak_memory_mb"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(folder, make_dpixels(60, seed=0), block_rows=10, shard_blocks=3)
    return folder


def train(work: Path, corpus: Path, **changes: object) -> Ended:
    ended = run(work, corpus, small(steps=STEPS, **changes), objective=teacher)
    assert ended.codes == [0] * len(ended.codes), ended.error
    return ended


def windows(ended: Ended) -> list[dict[str, float]]:
    return [json.loads(line) for line in (ended.work / SPEED).read_text().splitlines()]


@pytest.fixture(scope="module")
def single(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return train(tmp_path_factory.mktemp("single"), corpus)


def test_every_step_has_the_redundancy_and_every_tenth_the_rank(single: Ended) -> None:
    for record in single.records:
        assert record.keys() >= OF_EVERY_STEP
        assert (record.keys() >= OF_A_LOOK) == (record["step"] % 10 == 0)
    assert 1 < single.records[0]["effective_rank"] < 24


def test_no_clock_is_in_the_records_so_equal_runs_have_equal_bytes(
    single: Ended, corpus: Path, tmp_path: Path
) -> None:
    again = train(tmp_path, corpus)
    paths = [ended.work / "records.jsonl" for ended in (single, again)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not any(record.keys() & CLOCKS for record in single.records)


def test_all_steps_are_metered(single: Ended) -> None:
    rows = windows(single)
    assert [row["steps"] for row in rows] == [10, 2]
    assert sum(row["dpixels"] for row in rows) == STEPS * ROWS
    lengths = [record["view_length"] for record in single.records]
    assert sum(row["tokens"] for row in rows) == 3 * 2 * ROWS * sum(lengths)
    assert all(0 < row["utilisation"] < 1 for row in rows)


def test_two_processes_see_and_meter_what_one_does(
    single: Ended, corpus: Path, tmp_path: Path
) -> None:
    both = train(tmp_path, corpus, processes=2)
    names = OF_EVERY_STEP | OF_A_LOOK
    for alone, together in zip(single.records, both.records, strict=True):
        shown = names & alone.keys()
        expected = {name: alone[name] for name in shown}
        assert {name: together[name] for name in shown} == pytest.approx(expected, rel=1e-3)
    counts = [
        {name: sum(row[name] for row in windows(ended)) for name in ("dpixels", "tokens", "flops")}
        for ended in (single, both)
    ]
    assert counts[0] == counts[1]
    assert windows(both)[0]["processes"] == 2


def test_a_replay_sees_what_a_single_pass_does_and_claims_no_more_work(
    single: Ended, corpus: Path, tmp_path: Path
) -> None:
    replayed = train(tmp_path, corpus, replay=True, micro_batch=4)
    for name in ("effective_rank", "variance_min"):
        assert replayed.records[0][name] == pytest.approx(single.records[0][name], rel=1e-5)
    np.testing.assert_equal(
        [row["flops"] for row in windows(replayed)], [row["flops"] for row in windows(single)]
    )


def test_the_log_has_one_line_at_the_end_with_loss_and_speed(single: Ended) -> None:
    (last,) = [
        line
        for line in (single.work / "log-0.txt").read_text().splitlines()
        if line.startswith(f"train: {STEPS}/{STEPS} steps")
    ]
    assert f"loss {single.losses[-1]:.4g}" in last
    assert "px/s" in last
    assert "of peak" in last


def test_every_number_is_explained(single: Ended) -> None:
    text = (REPOSITORY / "docs" / "records.md").read_text()
    explained = set(re.findall(r"`(\w+)`", text))
    recorded = {name for row in [*single.records, *windows(single)] for name in row}
    assert recorded <= explained
