"""Runs that go on with other processes, or at another ZeRO stage."""

from pathlib import Path

import pytest

from tasks.settings.training import PretrainParams
from tests.corpora import make_dpixels, write_corpus
from tests.training_objectives import Planted
from tests.training_runs import Ended, Kill, run, small

pytestmark = pytest.mark.slow

SMALL = Planted()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(folder, make_dpixels(60, seed=0), block_rows=10, shard_blocks=3)
    return folder


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """An uninterrupted run; decay is strong, so that what decays matters."""
    return run(tmp_path_factory.mktemp("whole"), corpus, shape(1, 1), objective=SMALL)


def shape(stage: int, processes: int) -> PretrainParams:
    sharding = f"infra/deepspeed/zero{stage}.json"
    return small(
        processes=processes, deepspeed=sharding, learning_rate=0.02, weight_decay=1.0, clip_norm=9
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [((1, 2), (1, 1)), ((1, 1), (2, 2)), ((2, 2), (1, 1)), ((3, 2), (3, 1)), ((3, 1), (3, 2))],
)
def test_a_run_goes_on_in_another_shape_as_if_nothing_had_happened(
    before: tuple[int, int], after: tuple[int, int], corpus: Path, whole: Ended, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    run(work, corpus, shape(*before), objective=SMALL, kill=Kill(batch=5))
    again = run(work, corpus, shape(*after), objective=SMALL)
    assert set(again.codes) == {0}, again.error
    assert again.kinds == ["resized", "resumed"]
    assert [row["rows"] for row in again.records] == [row["rows"] for row in whole.records]
    assert again.losses == pytest.approx(whole.losses, rel=2e-6)
    for name, expected in whole.weights.items():
        assert again.weights[name] == pytest.approx(expected, abs=1e-6)
    assert not (work / "resizing").exists()


def test_a_run_in_its_new_shape_goes_on_to_the_same_bytes_when_killed(
    corpus: Path, tmp_path: Path
) -> None:
    ends = []
    for kills in ([], [Kill(batch=8)]):
        work = tmp_path / f"killed-{len(kills)}"
        run(work, corpus, shape(1, 2), objective=SMALL, kill=Kill(batch=5))
        for kill in kills:
            run(work, corpus, shape(2, 1), objective=SMALL, kill=kill)
        ends.append(run(work, corpus, shape(2, 1), objective=SMALL).records)
    assert ends[0] == ends[1]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2)])
def test_what_deepspeed_does_not_convert_is_refused_by_name(
    before: int, after: int, corpus: Path, tmp_path: Path
) -> None:
    run(tmp_path / "work", corpus, shape(before, 1), objective=SMALL, kill=Kill(batch=5))
    refused = run(tmp_path / "work", corpus, shape(after, 1), objective=SMALL)
    assert refused.codes == [1]
    assert "ParamsError" in refused.error
    assert f"found stage {after}" in refused.error


def test_a_checkpoint_without_moments_to_convert_is_refused_by_name(
    corpus: Path, tmp_path: Path
) -> None:
    """All its steps were skipped, and it was asked to end."""
    nothing = Planted(losses=dict.fromkeys(range(9), float("nan")), stop_at=3)
    work = tmp_path / "work"
    stopped = run(work, corpus, shape(1, 2), objective=nothing)
    assert "Preempted" in stopped.error
    refused = run(work, corpus, shape(1, 1), objective=nothing)
    assert "StageFailed" in refused.error
    assert "Go on with processes 2 and ZeRO stage 1" in refused.error
