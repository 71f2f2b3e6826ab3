import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.architecture import StudentConfig, TeacherConfig
from models.bands import NORMALISATIONS, S2_BANDS
from models.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    checkpoint_config,
    checkpoint_digest,
    ladder_of,
    load_model,
    load_student,
    load_teacher,
    normalisation_of,
    read_checkpoint,
    write_checkpoint,
)
from models.initialisation import initialise
from models.student import Student
from models.teacher import Teacher

Config = dict[str, Any]
ARCHITECTURE = StudentConfig(latent=4, layers=1, heads=2, feedforward=8)


def _student() -> Student:
    student = Student(ARCHITECTURE)
    initialise(student, seed=1)
    return student


def _config(architecture: StudentConfig | TeacherConfig = ARCHITECTURE) -> Config:
    return checkpoint_config(
        architecture,
        NORMALISATIONS["tessera-v2-student"],
        ladder_step=16,
        ladder_largest=64,
        provenance={"seed": 1},
    )


def test_student_comes_back_bit_for_bit_with_everything_needed_to_use_it(tmp_path: Path) -> None:
    student = _student()
    digest = write_checkpoint(tmp_path / "c", student.state_dict(), _config())
    again = load_student(tmp_path / "c", digest)
    assert again.config == ARCHITECTURE
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    _, config = read_checkpoint(tmp_path / "c")
    assert normalisation_of(config) == NORMALISATIONS["tessera-v2-student"]
    assert ladder_of(config) == (16, 32, 48, 64)
    assert config["prefixes"] == [16, 32, 64, 128]
    assert config["provenance"] == {"seed": 1}


def test_teacher_comes_back_and_is_not_taken_for_a_student(tmp_path: Path) -> None:
    architecture = TeacherConfig(latent=4, layers=1, heads=2, feedforward=8, repr_dim=12)
    teacher = Teacher(architecture)
    initialise(teacher, seed=1)
    write_checkpoint(tmp_path, teacher.state_dict(), _config(architecture))
    assert load_teacher(tmp_path).config == architecture
    with pytest.raises(ValueError, match="expected a student, got a teacher"):
        load_student(tmp_path)


def test_restored_model_can_be_trained(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, _student().state_dict(), _config())
    assert all(p.requires_grad and not p.is_meta for p in load_model(tmp_path).parameters())


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    digests = {
        write_checkpoint(tmp_path / name, _student().state_dict(), _config()) for name in "ab"
    }
    assert len(digests) == 1
    assert (tmp_path / "a" / CONFIG_FILE).read_bytes() == (
        tmp_path / "b" / CONFIG_FILE
    ).read_bytes()


def test_changed_bytes_are_found_by_the_digest(tmp_path: Path) -> None:
    digest = write_checkpoint(tmp_path, _student().state_dict(), _config())
    path = tmp_path / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert checkpoint_digest(tmp_path) != digest
    with pytest.raises(ValueError, match=f"expected digest {digest}"):
        load_model(tmp_path, digest)


def test_occupied_folder_is_not_overwritten(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, _student().state_dict(), _config())
    with pytest.raises(ValueError, match="without a checkpoint"):
        write_checkpoint(tmp_path, _student().state_dict(), _config())


def test_folder_without_a_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"with model\.safetensors"):
        read_checkpoint(tmp_path)


def _drop(state: Config) -> None:
    del state["dim_reducer.0.bias"]


def _add(state: Config) -> None:
    state["surplus"] = torch.zeros(1)


def _reshape(state: Config) -> None:
    state["dim_reducer.0.bias"] = torch.zeros(3)


def _halve(state: Config) -> None:
    state["dim_reducer.0.bias"] = state["dim_reducer.0.bias"].half()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop, "missing dim_reducer.0.bias"),
        (_add, "unknown surplus"),
        (_reshape, r"dim_reducer.0.bias: expected float32 \(64,\), got torch.float32 \(3,\)"),
        (_halve, r"dim_reducer.0.bias: expected float32 \(64,\), got torch.float16"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, spoil: Callable[[Config], None], message: str
) -> None:
    state = dict(_student().state_dict())
    spoil(state)
    with pytest.raises(ValueError, match=message):
        write_checkpoint(tmp_path, state, _config())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", "tessera-checkpoint/2", "format: expected tessera-checkpoint/1"),
        ("kind", "critic", "kind: expected student or teacher"),
        ("s2_bands", sorted(S2_BANDS), "s2_bands: expected"),
        ("s1_bands", ["VH", "VV"], "s1_bands: expected"),
        ("prefixes", [16, 128], "prefixes: expected"),
        ("ladder", {"step": 16}, "ladder: missing fields"),
        ("surprise", 1, r"config: missing fields \[\], unknown fields \['surprise'\]"),
    ],
)
def test_config_that_does_not_fit_is_refused_on_reading(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    write_checkpoint(tmp_path, _student().state_dict(), _config())
    _edit(tmp_path, lambda config: config.update({field: value}))
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_unknown_architecture_field_and_changed_statistics_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, _student().state_dict(), _config())
    _edit(tmp_path, lambda config: config["architecture"].update(depth=3))
    with pytest.raises(ValueError, match=r"architecture: missing fields \[\], unknown .*depth"):
        load_model(tmp_path)
    _edit(tmp_path, lambda config: config["architecture"].pop("depth"))
    _edit(tmp_path, lambda config: config["normalisation"]["s2_mean"].__setitem__(0, 1.0))
    with pytest.raises(ValueError, match="normalisation tessera-v2-student: expected digest"):
        load_model(tmp_path)


def _edit(folder: Path, change: Callable[[Config], object]) -> None:
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
