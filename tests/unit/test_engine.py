"""One step of the engine, held against a plain loop in PyTorch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.corpora import make_dpixels, write_corpus
from tests.training_objectives import Planted, plain_loop, teacher
from tests.training_runs import Ended, run, small

pytestmark = pytest.mark.slow

ZERO = {stage: f"infra/deepspeed/zero{stage}.json" for stage in (1, 2, 3)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(folder, make_dpixels(60, seed=0), block_rows=10, shard_blocks=3)
    return folder


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The small objective in one process at ZeRO stage 1."""
    return run(tmp_path_factory.mktemp("whole"), corpus, small(), objective=Planted())


def test_a_run_is_a_plain_loop_of_clipped_adamw_that_decays_matrices_alone(
    corpus: Path, tmp_path: Path
) -> None:
    params = small(learning_rate=0.05, weight_decay=0.5, clip_norm=0.3, betas=(0.8, 0.95))
    found = run(tmp_path / "run", corpus, params, objective=Planted())
    losses, weights = plain_loop(corpus, params, range(params.steps))
    norms = [row["gradient_norm"] for row in found.records]
    assert min(norms) > 0.3, "clipping must matter"
    assert found.losses == pytest.approx(losses, rel=1e-6)
    for name, expected in weights.items():
        assert found.weights[name] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_stages_processes_and_terms_agree_to_rounding(
    stage: int, processes: int, corpus: Path, whole: Ended, tmp_path: Path
) -> None:
    params = small(processes=processes, deepspeed=ZERO[stage])
    found = run(tmp_path / "run", corpus, params, objective=Planted(passes=4))
    assert found.codes == [0] * processes, found.error
    assert found.losses == pytest.approx(whole.losses, rel=2e-6)
    norms = [row["gradient_norm"] for row in found.records]
    assert norms == pytest.approx([row["gradient_norm"] for row in whole.records], rel=2e-6)
    for name, expected in whole.weights.items():
        assert found.weights[name] == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def teacher_alone(
    request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Ended]:
    """The real teacher in one process at stage 1, in one of the precisions."""
    params = small(precision=request.param, steps=6, learning_rate=2e-4)
    found = run(tmp_path_factory.mktemp("teacher") / "run", corpus, params, objective=teacher)
    assert found.codes == [0], found.error
    return request.param, found


@pytest.mark.parametrize(("stage", "processes"), [(2, 1), (3, 1), (1, 2), (3, 2)])
def test_the_teacher_has_the_same_losses_at_every_stage_in_both_precisions(
    stage: int, processes: int, corpus: Path, teacher_alone: tuple[str, Ended], tmp_path: Path
) -> None:
    precision, alone = teacher_alone
    shape = {"processes": processes, "deepspeed": ZERO[stage]}
    params = small(precision=precision, steps=6, learning_rate=2e-4, **shape)
    found = run(tmp_path / "run", corpus, params, objective=teacher)
    assert found.codes == [0] * processes, found.error
    # Two processes add in another order, and in bfloat16 each rounds its own share of a gradient.
    rounding = 2e-2 if precision == "bfloat16" and processes == 2 else 1e-5
    assert found.losses == pytest.approx(alone.losses, rel=rounding)
    if (stage, processes) == (2, 1):
        assert found.losses == alone.losses


def test_bfloat16_is_of_products_alone_and_said_where_it_is_emulated(
    teacher_alone: tuple[str, Ended],
) -> None:
    from models.precision import has_bfloat16

    precision, found = teacher_alone
    assert {array.dtype for array in found.weights.values()} == {np.dtype(np.float32)}
    rounded = [
        np.array_equal(a, torch.from_numpy(a).bfloat16().float().numpy())
        for a in found.weights.values()
        if a.ndim > 1
    ]
    assert not any(rounded), "weights must keep more digits than bfloat16 has"
    said = "emulates it" in (found.work / "log-0.txt").read_text()
    emulated = precision == "bfloat16" and not has_bfloat16(torch.device("cpu"))
    assert said is emulated


def test_a_wrong_number_of_terms_is_refused(corpus: Path, tmp_path: Path) -> None:
    found = run(tmp_path / "run", corpus, small(), objective=Planted(passes=4, missing=1))
    assert "expected 4 terms a step, got 3" in found.error
