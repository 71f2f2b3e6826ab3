"""The teacher's objective under the real engine: every way to carry it out is the same training."""

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.params import read_params
from tasks.settings.training import PretrainParams
from tests.corpora import make_dpixels, write_corpus
from tests.training_objectives import teacher
from tests.training_runs import REPOSITORY, Ended, run, small

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(folder, make_dpixels(60, seed=0), block_rows=10, shard_blocks=3)
    return folder


def trained(folder: Path, corpus: Path, **changes: object) -> Ended:
    projector = {"width": 16, "layers": 3}
    params = small(steps=4, projector=projector, modality_dropout=0.3, **changes)
    found = run(folder / "run", corpus, params, objective=teacher)
    assert set(found.codes) == {0}, found.error
    return found


@pytest.fixture(scope="module")
def plain(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """In one process and a single pass."""
    return trained(tmp_path_factory.mktemp("plain"), corpus)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_replay_is_the_single_pass_at_every_stage_on_any_number_of_processes(
    stage: int, processes: int, corpus: Path, plain: Ended, tmp_path: Path
) -> None:
    zero: dict[str, int] = {"stage": stage}
    if stage == 3:
        # Otherwise a model as small as this one is never split at all.
        zero["stage3_param_persistence_threshold"] = 0
    (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": zero}))
    found = trained(
        tmp_path,
        corpus,
        replay=True,
        micro_batch=6,
        activation_checkpointing=True,
        processes=processes,
        deepspeed=str(tmp_path / "zero.json"),
    )
    assert found.losses[0] == pytest.approx(plain.losses[0], rel=1e-6)
    # AdamW turns the rounding of a gradient near zero into a whole step.
    assert found.losses == pytest.approx(plain.losses, rel=1e-4)
    for column in ("barlow_twins", "mixup", "gradient_norm", "correlation_off_diagonal"):
        expected = [row[column] for row in plain.records]
        assert [row[column] for row in found.records] == pytest.approx(expected, rel=1e-3)
    lengths = [row["view_length"] for row in plain.records]
    assert [row["view_length"] for row in found.records] == lengths


def test_activation_checkpointing_changes_no_bit(
    corpus: Path, plain: Ended, tmp_path: Path
) -> None:
    found = trained(tmp_path, corpus, activation_checkpointing=True)
    assert found.losses == plain.losses
    for name, expected in plain.weights.items():
        assert np.array_equal(found.weights[name], expected)


def test_pieces_of_a_single_pass_agree_to_rounding(
    corpus: Path, plain: Ended, tmp_path: Path
) -> None:
    found = trained(tmp_path, corpus, micro_batch=6)
    assert found.losses == pytest.approx(plain.losses, rel=1e-4)


def test_prefix_losses_are_trained_and_recorded_one_by_one(corpus: Path, tmp_path: Path) -> None:
    found = trained(tmp_path, corpus, prefix_losses=(4, 8), mixup_weight=0.0)
    for row in found.records:
        parts = row["barlow_twins"] + row["twins_4"] + row["twins_8"]
        assert row["loss"] == pytest.approx(parts, rel=1e-6)
        assert "mixup" not in row


@pytest.mark.parametrize("micro_batch", [0, 5])
def test_replay_by_micro_batches_that_part_pairs_is_refused_by_name(micro_batch: int) -> None:
    with pytest.raises(ValueError, match=r"execution\.micro_batch . is no even number"):
        small(replay=True, micro_batch=micro_batch)


def test_prefix_that_is_no_prefix_is_refused_by_name() -> None:
    section = read_params(REPOSITORY / "params.yaml").pretrain
    whole = section.architecture.repr_dim
    with pytest.raises(ValueError, match=rf"prefix_losses \({whole},\) are not all shorter"):
        PretrainParams.model_validate(section.complete() | {"prefix_losses": [whole]})
