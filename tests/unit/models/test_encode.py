import numpy as np
import pytest
import torch

from benchmarks.released import encode_as_released
from models.architecture import StudentConfig
from models.bands import NORMALISATIONS
from models.buckets import bucket_of, ladder, merge_s1, normalised_s2, resample_indices
from models.encode import Encoder
from models.initialisation import initialise
from models.student import Student
from models.teacher import TEACHERS, Teacher
from tests.unit.models.arrays import random_dpixels, with_counts

STUDENT = NORMALISATIONS["tessera-v2-student"]
LADDER = ladder(16, 64)


@pytest.fixture(scope="module")
def student() -> Student:
    module = Student(StudentConfig(latent=8, layers=2, heads=4, feedforward=32))
    initialise(module, seed=1)
    return module


def test_each_pixel_is_encoded_as_when_alone(student: Student) -> None:
    block = random_dpixels(40, seed=3, max_s2=50)
    together = Encoder(student, STUDENT, LADDER).encode(block)
    for row in range(len(block)):
        alone = Encoder(student, STUDENT, LADDER).encode(block.take(np.array([row])))
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_encoding_equals_the_network_on_tokens_put_together_by_hand(student: Student) -> None:
    block = with_counts(s2=[21], asc=[3], desc=[4])
    tokens = []
    for series in (normalised_s2(block, STUDENT), merge_s1(block, STUDENT)):
        count = len(series.doy)
        slots = resample_indices(count, int(bucket_of(np.array([count]), LADDER)[0]))
        tokens += [torch.tensor(series.values[slots])[None]]
        tokens += [torch.tensor(series.doy[slots].astype(np.float32))[None]]
    expected = student(*tokens).detach().numpy()
    np.testing.assert_allclose(Encoder(student, STUDENT, LADDER).encode(block), expected, atol=1e-6)


def test_batch_size_changes_nothing_but_the_last_bits(student: Student) -> None:
    block = random_dpixels(60, seed=4)
    whole = Encoder(student, STUDENT, LADDER).encode(block)
    for max_tokens in (1, 100, 10**9):
        other = Encoder(student, STUDENT, LADDER, max_tokens=max_tokens).encode(block)
        np.testing.assert_allclose(other, whole, atol=1e-5)


def test_pixel_without_s2_is_encoded_from_s1_alone(student: Student) -> None:
    block = with_counts(s2=[0], asc=[5], desc=[6])
    embedding = Encoder(student, STUDENT, LADDER).encode(block)
    assert np.isfinite(embedding).all()
    other_radar = with_counts(s2=[0], asc=[5], desc=[6], seed=1)
    assert np.abs(Encoder(student, STUDENT, LADDER).encode(other_radar) - embedding).max() > 1e-3


def test_pixel_without_s1_is_encoded_from_s2_alone(student: Student) -> None:
    assert np.isfinite(Encoder(student, STUDENT, LADDER).encode(with_counts([9], [0], [0]))).all()


def test_pixel_with_no_observation_is_nan_and_leaves_others_alone(student: Student) -> None:
    block = with_counts(s2=[0, 7], asc=[0, 2], desc=[0, 0])
    embeddings = Encoder(student, STUDENT, LADDER).encode(block)
    assert np.isnan(embeddings[0]).all()
    alone = Encoder(student, STUDENT, LADDER).encode(block.take(np.array([1])))
    np.testing.assert_allclose(embeddings[1], alone[0], atol=1e-6)


def test_no_pixels_give_an_empty_array(student: Student) -> None:
    block = random_dpixels(1, seed=0).take(np.array([], dtype=np.int64))
    assert Encoder(student, STUDENT, LADDER).encode(block).shape == (0, 128)


def test_teacher_is_encoded_at_its_own_length() -> None:
    teacher = Teacher(TEACHERS["demo"])
    initialise(teacher, seed=1)
    block = random_dpixels(5, seed=1)
    assert Encoder(teacher, STUDENT, LADDER).encode(block).shape == (5, 192)


def test_impossible_batch_size_is_refused(student: Student) -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        Encoder(student, STUDENT, LADDER, max_tokens=0)


@pytest.mark.parametrize("steps", [(8, 256), (16, 256), (8, 32)])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_encoding_equals_the_released_procedure(steps: tuple[int, int], qk_norm: bool) -> None:
    student = Student(StudentConfig(latent=8, layers=2, heads=4, feedforward=32, qk_norm=qk_norm))
    initialise(student, seed=2)
    block = random_dpixels(200, seed=6, max_s2=80, max_asc=150, max_desc=150)
    expected = encode_as_released(student, block, STUDENT, ladder(*steps))
    actual = Encoder(student, STUDENT, ladder(*steps)).encode(block)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_teacher_encoding_equals_the_released_procedure() -> None:
    teacher = Teacher(TEACHERS["demo"])
    initialise(teacher, seed=3)
    block = random_dpixels(100, seed=7)
    expected = encode_as_released(teacher, block, STUDENT, LADDER)
    actual = Encoder(teacher, STUDENT, LADDER).encode(block)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_dropping_repeated_observations_would_be_another_model(student: Student) -> None:
    block = random_dpixels(50, seed=8)
    fine = Encoder(student, STUDENT, ladder(1, 64)).encode(block)
    assert np.nanmax(np.abs(fine - Encoder(student, STUDENT, LADDER).encode(block))) > 1e-3
