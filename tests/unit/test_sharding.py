import json
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ParamsError
from tasks.training.sharding import read_sharding

REPOSITORY = Path(__file__).parents[2]


def written(folder: Path, **content: Any) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}} | content))
    return path


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_files_of_the_repository_are_read(stage: int) -> None:
    found = read_sharding(REPOSITORY / "infra" / "deepspeed" / f"zero{stage}.json")
    assert found.stage == stage


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        ("train_batch_size", "batch_size"),
        ("train_micro_batch_size_per_gpu", "execution.micro_batch"),
        ("gradient_accumulation_steps", "execution.replay"),
        ("gradient_clipping", "clip_norm"),
        ("optimizer", "learning_rate, betas and weight_decay"),
        ("scheduler", "warmup_share"),
        ("bf16", "precision"),
        ("torch_autocast", "precision"),
        ("activation_checkpointing", "execution.activation_checkpointing"),
    ],
)
def test_a_key_that_the_settings_own_is_refused_with_its_owner(
    key: str, owner: str, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match=owner) as refused:
        read_sharding(written(tmp_path, **{key: 1}))
    assert refused.value.found == key
    assert refused.value.where.endswith("mine.json")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"zero_optimisation": {}}, "zero_optimisation"),
        ({"zero_optimization": {"stage": 0}}, "0"),
        ({"zero_optimization": {"stage": "2"}}, "'2'"),
        ({"zero_optimization": {}}, "None"),
        ({"zero_optimization": 3}, "dict"),
        ({"zero_optimization": {"stage": 1, "offload_optimizer": {}}}, "offload_optimizer"),
        ({"zero_optimization": {"stage": 1, "reduce_bucket": 1}}, "reduce_bucket"),
        ({"communication_data_type": "bf16"}, "communication_data_type 'bf16'"),
    ],
)
def test_what_is_not_known_is_refused_by_name(
    content: dict[str, Any], found: str, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError) as refused:
        read_sharding(written(tmp_path, **content))
    assert found in refused.value.found


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_file_that_is_no_object_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ParamsError, match=r"mine\.json"):
        read_sharding(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="No such file"):
        read_sharding(tmp_path / "absent.json")


def test_buckets_are_no_larger_than_the_model_and_may_be_chosen_smaller(tmp_path: Path) -> None:
    chosen = {"stage": 2, "reduce_bucket_size": 100}
    found = read_sharding(written(tmp_path, zero_optimization=chosen)).bounded(2_001)
    assert found["reduce_bucket_size"] == 100
    assert found["allgather_bucket_size"] == 2_002
