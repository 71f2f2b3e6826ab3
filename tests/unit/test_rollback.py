"""Steps that are skipped, and runs that go back, in the real engine."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.settings.training import PretrainParams
from tests.corpora import make_dpixels, write_corpus
from tests.training_objectives import Planted, plain_loop
from tests.training_runs import Ended, Kill, run, small

pytestmark = pytest.mark.slow

NAN, INF = math.nan, math.inf
FAULTY = Planted(losses={7: NAN, 8: INF, 11: 1e9}, draws=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(folder, make_dpixels(60, seed=0), block_rows=10, shard_blocks=3)
    return folder


@pytest.fixture(scope="module")
def went_back(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run that went back and was not interrupted."""
    return run(tmp_path_factory.mktemp("back"), corpus, settings(), objective=FAULTY)


def settings(stage: int = 1, processes: int = 1, steps: int = 14, **changes: int) -> PretrainParams:
    guard = {"window": 8, "sigmas": 50.0, "patience": 2, "rollbacks": 2}
    guard |= {name: changes.pop(name) for name in guard.keys() & changes.keys()}
    return small(
        steps=steps,
        processes=processes,
        guard=guard,
        warmup_share=0.0,
        deepspeed=f"infra/deepspeed/zero{stage}.json",
        **changes,
    )


def state_of(work: Path, step: int) -> list[torch.Tensor]:
    """Return weights and moments of a checkpoint, as DeepSpeed wrote them."""
    found: list[torch.Tensor] = []

    def gather(value: object) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                gather(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                gather(item)

    folder = work / "checkpoints" / f"step-{step:08d}" / "state"
    for path in sorted(folder.glob("*.pt")):
        content = torch.load(path, weights_only=False)
        gather(content.get("optimizer_state_dict", content.get("module")))
    return found


SPOILT = {
    "loss nan": Planted(losses={12: NAN}, stop_at=12),
    "loss inf": Planted(losses={12: INF}, stop_at=12),
    "loss 1000": Planted(losses={12: 1000.0}, stop_at=12),
    "norm nan": Planted(factors={12: NAN}, stop_at=12),
    "norm inf": Planted(factors={12: INF}, stop_at=12),
}


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("planted", SPOILT.values(), ids=SPOILT)
def test_a_skipped_step_leaves_weights_and_moments_as_they_were_to_the_bit(
    planted: Planted, stage: int, corpus: Path, tmp_path: Path
) -> None:
    """A checkpoint before the step, and one that a request to end makes just after it."""
    found = run(tmp_path, corpus, settings(stage, checkpoint_every=12), objective=planted)
    assert "Preempted" in found.error
    assert found.checkpoints[-2:] == ["step-00000012", "step-00000013"]
    before, after = state_of(tmp_path, 12), state_of(tmp_path, 13)
    assert len(before) > 8
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [row["skipped"] for row in found.records] == [0.0] * 12 + [1.0]
    assert found.kinds == ["skipped", "stopped"]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", [1, 3])
def test_a_run_goes_back_and_on_past_the_batches_that_it_could_not_digest(
    stage: int, processes: int, corpus: Path, tmp_path: Path
) -> None:
    params = settings(stage, processes)
    found = run(tmp_path, corpus, params, objective=Planted(losses={7: NAN, 8: INF, 11: 1e9}))
    assert found.codes == [0] * processes, found.error
    # The checkpoint after step 6: batches 6, 7 and 8 had been seen when the run went back.
    batches = [0, 1, 2, 3, 4, 5, 9, 10, None, 12, 13, 14, 15, 16]
    losses, weights = plain_loop(corpus, params, batches)
    assert [row["batch"] for row in found.records] == [*range(6), *range(9, 17)]
    assert [row["step"] for row in found.records] == list(range(14))
    assert [row["skipped"] for row in found.records] == [float(b is None) for b in batches]
    taken = [row["loss"] for row in found.records if not row["skipped"]]
    assert taken == pytest.approx(losses, rel=2e-6)
    for name, expected in weights.items():
        assert found.weights[name] == pytest.approx(expected, abs=1e-6)
    assert found.kinds == ["skipped", "skipped", "rolled_back", "skipped"]
    assert found.events[2] | {"time": ""} == {
        "time": "",
        "kind": "rolled_back",
        "step": 6,
        "message": "back from steps 7 to 8, past 3 batches",
        "offset": 3,
    }


@pytest.mark.parametrize("batch", [7, 8, 9, 10, 12, 16])
def test_a_run_that_goes_back_and_is_killed_ends_with_the_same_bytes(
    batch: int, went_back: Ended, corpus: Path, tmp_path: Path
) -> None:
    kill = Kill(batch=batch)
    assert run(tmp_path, corpus, settings(), objective=FAULTY, kill=kill).codes == [-9]
    again = run(tmp_path, corpus, settings(), objective=FAULTY)
    assert again.records == went_back.records
    weights = went_back.weights
    assert all(np.array_equal(again.weights[name], weights[name]) for name in weights)
    assert again.checkpoints == went_back.checkpoints


def test_asked_to_end_in_the_middle_of_skipped_steps_a_run_goes_back_as_it_would_have(
    went_back: Ended, corpus: Path, tmp_path: Path
) -> None:
    """The checkpoint that the request makes is no place to go back to, and is left behind."""
    asked = replace(FAULTY, stop_at=7)
    assert "Preempted" in run(tmp_path, corpus, settings(), objective=asked).error
    assert (tmp_path / "checkpoints" / "step-00000008").is_dir()
    again = run(tmp_path, corpus, settings(), objective=FAULTY)
    assert again.records == went_back.records
    assert again.checkpoints == went_back.checkpoints


def test_a_run_that_goes_back_too_often_ends_with_the_reason(corpus: Path, tmp_path: Path) -> None:
    always = Planted(losses=dict.fromkeys(range(7, 99), NAN))
    ended = run(tmp_path, corpus, settings(), objective=always)
    assert ended.codes == [1]
    assert "DataError: steps 6 to 7: expected fewer than 2 steps in a row" in ended.error
    assert "found 2, after going back 2 times. " in ended.error
    assert "Lower learning_rate" in ended.error
    assert ended.kinds.count("rolled_back") == 2


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("taken", [0, 2])
def test_before_its_first_checkpoint_a_run_goes_back_to_the_beginning(
    taken: int, stage: int, processes: int, corpus: Path, tmp_path: Path
) -> None:
    """The steps that were taken have left no moments behind."""
    params = settings(stage, processes, steps=8, checkpoint_every=6)
    planted = Planted(losses={taken: NAN, taken + 1: INF})
    found = run(tmp_path, corpus, params, objective=planted)
    assert found.codes == [0] * processes, found.error
    batches = range(taken + 2, taken + 10)
    losses, weights = plain_loop(corpus, params, [*batches])
    assert [row["batch"] for row in found.records] == [*batches]
    assert found.losses == pytest.approx(losses, rel=2e-6)
    for name, expected in weights.items():
        assert found.weights[name] == pytest.approx(expected, abs=1e-6)
    assert found.kinds == ["skipped", "skipped", "rolled_back"]
    assert found.events[2]["step"] == 0


def test_killed_after_it_went_back_to_the_beginning_a_run_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path
) -> None:
    """Nothing of the return was saved, so it is repeated."""
    params = settings(checkpoint_every=6)
    planted = Planted(losses={2: NAN, 3: INF}, draws=True)
    whole = run(tmp_path / "whole", corpus, params, objective=planted)
    killed = run(tmp_path / "killed", corpus, params, objective=planted, kill=Kill(batch=5))
    assert killed.codes == [-9]
    again = run(tmp_path / "killed", corpus, params, objective=planted)
    assert again.records == whole.records
    assert all(np.array_equal(again.weights[name], whole.weights[name]) for name in whole.weights)
    assert again.kinds.count("rolled_back") == 2


def test_a_run_that_has_nothing_to_go_back_to_ends_with_the_reason(
    corpus: Path, tmp_path: Path
) -> None:
    """It was asked to end, and its one checkpoint to go back to was damaged meanwhile."""
    asked = run(tmp_path, corpus, settings(), objective=Planted(stop_at=1))
    assert asked.checkpoints == ["step-00000000", "step-00000002"]
    next((tmp_path / "checkpoints" / "step-00000000" / "state").iterdir()).unlink()
    ended = run(tmp_path, corpus, settings(), objective=Planted(losses={2: NAN, 3: NAN}))
    assert "found 2, and no checkpoint to go back to" in ended.error
    assert ended.kinds[-1] == "unusable"
