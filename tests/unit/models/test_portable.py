import dataclasses

import numpy as np
import pytest
import torch

from models.architecture import StudentConfig
from models.bands import NORMALISATIONS
from models.buckets import ladder
from models.dpixel import DPixels
from models.encode import Encoder
from models.initialisation import initialise
from models.portable import INPUTS, PortableStudent, portable_inputs
from models.student import Student
from models.teacher import TEACHERS, Teacher
from tests.unit.models.arrays import random_dpixels, with_counts

STATISTICS = NORMALISATIONS["tessera-v2-student"]
LADDER = ladder(8, 32)
PLAIN = StudentConfig(latent=8, layers=2, heads=4, feedforward=32)
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "qk-norm"])
def student(request: pytest.FixtureRequest) -> Student:
    module = Student(dataclasses.replace(PLAIN, qk_norm=request.param))
    initialise(module, seed=1)
    return module.eval()


def run(student: Student, inputs: dict[str, np.ndarray]) -> np.ndarray:
    portable = PortableStudent(student, STATISTICS)
    with torch.inference_mode():
        embedding: torch.Tensor = portable(*(torch.from_numpy(inputs[name]) for name in INPUTS))
    return embedding.numpy()


def encode(student: Student, dpixels: DPixels) -> np.ndarray:
    return Encoder(student, STATISTICS, LADDER).encode(dpixels)


@pytest.mark.parametrize("num", [1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_embeddings_are_those_of_the_bucket_ladder(student: Student, num: int, seed: int) -> None:
    dpixels = random_dpixels(num, seed, max_s2=60)
    actual = run(student, portable_inputs(dpixels, LADDER))
    np.testing.assert_allclose(actual, encode(student, dpixels), atol=TOLERANCE)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 13, 16, 31, 32, 33, 50, 366])
def test_every_length_agrees_with_the_bucket_ladder(student: Student, count: int) -> None:
    dpixels = with_counts([count, 3], [count // 2, 1], [count - count // 2, 2])
    actual = run(student, portable_inputs(dpixels, LADDER))
    np.testing.assert_allclose(actual, encode(student, dpixels), atol=TOLERANCE)


@pytest.mark.parametrize(("s2", "asc", "desc"), [(0, 5, 6), (0, 0, 3), (9, 0, 0), (4, 2, 0)])
def test_absent_sensor_is_the_zero_token(student: Student, s2: int, asc: int, desc: int) -> None:
    beside = with_counts([s2, 12], [asc, 4], [desc, 5])
    alone = beside.take(np.array([0]))
    expected = encode(student, alone)
    assert np.isfinite(expected).all()
    for dpixels in (alone, beside):
        actual = run(student, portable_inputs(dpixels, LADDER))
        np.testing.assert_allclose(actual[:1], expected, atol=TOLERANCE)


def test_pixel_without_any_observation_is_nan_and_leaves_others_alone(student: Student) -> None:
    dpixels = with_counts([0, 7], [0, 2], [0, 0])
    actual = run(student, portable_inputs(dpixels, LADDER))
    assert np.isnan(actual[0]).all()
    np.testing.assert_allclose(actual, encode(student, dpixels), atol=TOLERANCE)


@pytest.mark.parametrize("filler", [np.nan, np.inf, -1e30, 12345.0])
def test_what_stands_in_the_padding_changes_nothing(student: Student, filler: float) -> None:
    inputs = portable_inputs(with_counts([5, 2, 0], [0, 4, 0], [3, 1, 0]), LADDER)
    expected = run(student, inputs)
    padded = {}
    for name, array in inputs.items():
        space = np.full((len(array), 4, *array.shape[2:]), filler, np.float32)
        padded[name] = np.concatenate([array, space], axis=1)
        if name.endswith("_copies"):
            padded[name][:, -4:] = 0
        else:
            padded[name][:, :-4][inputs[f"{name.removesuffix('_doy')}_copies"] == 0] = filler
    np.testing.assert_allclose(run(student, padded), expected, atol=TOLERANCE)


def test_copies_are_repetitions(student: Student) -> None:
    inputs = portable_inputs(with_counts([3], [2], [0]), ladder(1, 32))
    repeated = {name: np.repeat(array, 2, axis=1) for name, array in inputs.items()}
    inputs["s2_copies"][0], inputs["s1_asc_copies"][0] = (2, 1, 1), (1, 3)
    for name, copies in (("s2", [1, 1, 1, 0, 1, 0]), ("s1_asc", [1, 0, 1.5, 1.5])):
        repeated[f"{name}_copies"][0] = copies
    np.testing.assert_allclose(run(student, inputs), run(student, repeated), atol=TOLERANCE)


def test_copies_without_meaning_give_nan_and_no_embedding(student: Student) -> None:
    for wrong in (-1, np.nan):
        inputs = portable_inputs(with_counts([3], [2], [2]), LADDER)
        inputs["s2_copies"][0, 1] = wrong
        assert np.isnan(run(student, inputs)).all()


def test_no_pixels_give_no_embeddings(student: Student) -> None:
    none = random_dpixels(1, seed=0).take(np.array([], dtype=np.int64))
    assert run(student, portable_inputs(none, LADDER)).shape == (0, 128)


def test_teacher_is_refused() -> None:
    teacher = Teacher(TEACHERS["demo"])
    with pytest.raises(ValueError, match="expected a student, got a teacher"):
        PortableStudent(teacher, STATISTICS)  # type: ignore[arg-type]  # what is tested
