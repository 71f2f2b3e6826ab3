import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from models.architecture import StudentConfig, TeacherConfig
from models.checkpoint import checkpoint_config, load_model, write_checkpoint
from models.dpixel import DPixels
from models.encode import Encoder
from models.initialisation import initialise
from models.released import (
    RELEASED_LADDER,
    RELEASED_LADDER_LARGEST,
    RELEASED_LADDER_STEP,
    read_released,
    released_normalisation,
    write_released,
)
from models.student import Student
from models.teacher import Teacher
from tests.unit.models.arrays import tile_dpixels

SHARED = Path(os.environ.get("TESSERA_SHARED", Path(__file__).resolve().parents[4] / "shared"))
GOLDEN = SHARED / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"golden checkpoints of the released code not found in {GOLDEN}"
)


def _tile(folder: Path) -> DPixels:
    def read(name: str) -> np.ndarray:
        array: np.ndarray = np.load(folder / f"{name}.npy")
        return array

    return tile_dpixels(
        (read("bands"), read("masks"), read("doys")),
        (read("sar_ascending"), read("sar_ascending_doy")),
        (read("sar_descending"), read("sar_descending_doy")),
    )


@needs_golden
@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [("student_nano", 1_066_402), ("student_qknorm", 209_794), ("teacher_tiny", 334_754)],
)
def test_released_checkpoint_gives_the_released_embeddings(name: str, num_parameters: int) -> None:
    model = read_released(GOLDEN / f"{name}.pt")
    assert num_parameters == sum(p.numel() for p in model.parameters())
    dpixels = _tile(GOLDEN / "tiles" / "a")
    actual = Encoder(model, released_normalisation(model), RELEASED_LADDER).encode(dpixels)
    expected = np.load(GOLDEN / f"{name}__a.npy").reshape(len(dpixels), -1)
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=0)


def _models() -> list[Student | Teacher]:
    plain = StudentConfig(latent=4, layers=1, heads=2, feedforward=8)
    models: list[Student | Teacher] = [
        Student(plain),
        Student(dataclasses.replace(plain, qk_norm=True)),
        Teacher(TeacherConfig(latent=4, layers=1, heads=2, feedforward=8, repr_dim=12)),
    ]
    for model in models:
        initialise(model, seed=1)
    return models


@pytest.mark.parametrize("model", _models(), ids=["student", "qk-norm", "teacher"])
def test_model_comes_back_bit_for_bit(tmp_path: Path, model: Student | Teacher) -> None:
    write_released(tmp_path / "m.pt", model)
    again = read_released(tmp_path / "m.pt")
    assert type(model) is type(again)
    assert model.config == again.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_student_without_arguments_has_the_released_defaults(tmp_path: Path) -> None:
    student = Student(StudentConfig(latent=64, layers=4, heads=4, feedforward=1024))
    torch.save({"model": student.state_dict()}, tmp_path / "m.pt")
    assert read_released(tmp_path / "m.pt").config == student.config


def test_blanks_between_prefixes_are_legal(tmp_path: Path) -> None:
    write_released(tmp_path / "m.pt", _models()[0])
    content = torch.load(tmp_path / "m.pt")
    content["args"]["matryoshka_dims"] = "16, 32,64 ,128"
    torch.save(content, tmp_path / "m.pt")
    assert read_released(tmp_path / "m.pt").config == _models()[0].config


def test_unknown_or_missing_argument_is_refused(tmp_path: Path) -> None:
    write_released(tmp_path / "m.pt", _models()[0])
    content = torch.load(tmp_path / "m.pt")
    content["args"]["fusion"] = "transformer"
    del content["args"]["nhead"]
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"unknown \['fusion'\], missing \['nhead'\]"):
        read_released(tmp_path / "m.pt")


def test_tensor_that_does_not_fit_is_refused_by_name_and_file(tmp_path: Path) -> None:
    write_released(tmp_path / "m.pt", _models()[2])
    content = torch.load(tmp_path / "m.pt")
    del content["encoder_state_dict"]["fusion_modality_embed"]
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m.pt: .*missing fusion_modality_embed"):
        read_released(tmp_path / "m.pt")


def test_another_layout_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"expected keys \(model, args\)"):
        read_released(tmp_path / "m.pt")


class Exploit:
    """Unpickled, it makes a file: a stand-in for whatever an attacker would run."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._target),)


@pytest.mark.parametrize("place", ["args", "model", "whole"])
def test_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, place: str) -> None:
    exploit = Exploit(tmp_path / "ran")
    content: dict[str, object] = {"model": {}, "args": {}, place: exploit}
    torch.save(exploit if place == "whole" else content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="tensors and plain values only"):
        read_released(tmp_path / "m.pt")
    assert not (tmp_path / "ran").exists()


def test_file_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"m\.pt"):
        read_released(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": None}, "architecture arguments: expected a dict, got NoneType"),
        ({"args": ["latent_dim"]}, "architecture arguments: expected a dict, got list"),
        ({"model": []}, "weights: expected a dict, got list"),
        ({"model": {"a": 1.0}}, "weights: expected tensors, got others: a"),
        ({"latent_dim": "64"}, "latent_dim: expected a whole number of 1 to 65536, got '64'"),
        ({"latent_dim": 64.0}, "latent_dim: expected a whole number"),
        ({"latent_dim": True}, "latent_dim: expected a whole number"),
        ({"latent_dim": 1 << 40}, "latent_dim: expected a whole number"),
        ({"num_layers": 10_000}, "num_layers: expected a whole number of 1 to 256, got 10000"),
        ({"nhead": 3}, "expected width 16 to be a multiple of the 3 heads"),
        ({"enable_qk_norm": None}, "enable_qk_norm: expected True or False, got None"),
        (
            {"matryoshka_dims": "16,x"},
            "matryoshka_dims: expected numbers as in '16,32', got '16,x'",
        ),
        ({"matryoshka_dims": [16]}, "matryoshka_dims: expected numbers"),
        ({"matryoshka_dims": "32,16"}, "rising to repr_dim 128"),
    ],
)
def test_malformed_content_is_refused_by_file_and_field(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    write_released(tmp_path / "m.pt", _models()[0])
    content = torch.load(tmp_path / "m.pt")
    (content if change.keys() <= content.keys() else content["args"]).update(change)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m\.pt: .*" + re.escape(message)):
        read_released(tmp_path / "m.pt")


def test_file_damaged_anywhere_is_refused_by_name_or_reads_as_before(tmp_path: Path) -> None:
    path, random = tmp_path / "m.pt", np.random.default_rng(0)
    write_released(path, _models()[0])
    whole = path.read_bytes()
    refused = 0
    for at in random.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            read_released(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017 - other damage is in padding or a weight
    assert refused > 10


@needs_golden
@pytest.mark.parametrize("name", ["student_nano", "student_qknorm", "teacher_tiny"])
def test_released_file_goes_through_our_folder_and_back_bit_for_bit(
    tmp_path: Path, name: str
) -> None:
    model = read_released(GOLDEN / f"{name}.pt")
    config = checkpoint_config(
        model.config,
        released_normalisation(model),
        ladder_step=RELEASED_LADDER_STEP,
        ladder_largest=RELEASED_LADDER_LARGEST,
        provenance={},
    )
    write_checkpoint(tmp_path / "ours", model.state_dict(), config)
    write_released(tmp_path / "back.pt", load_model(tmp_path / "ours"))
    key = "encoder_state_dict" if isinstance(model, Teacher) else "model"
    before, after = (
        torch.load(path, weights_only=True)[key]
        for path in (GOLDEN / f"{name}.pt", tmp_path / "back.pt")
    )
    assert list(before) == list(after)
    assert all(torch.equal(before[tensor], after[tensor]) for tensor in before)


def test_teacher_that_the_layout_cannot_express_is_refused(tmp_path: Path) -> None:
    config = TeacherConfig(latent=4, layers=1, heads=2, feedforward=8, repr_dim=12, fusion_layers=1)
    with pytest.raises(ValueError, match="2 fusion layers of 4 heads"):
        write_released(tmp_path / "m.pt", Teacher(config))
