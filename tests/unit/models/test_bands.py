import dataclasses

import numpy as np
import pytest

from models.bands import NORMALISATIONS, S1_BANDS, S2_BANDS, normalise

STUDENT = NORMALISATIONS["tessera-v2-student"]
TEACHER = NORMALISATIONS["tessera-v2-teacher"]


def test_band_orders_are_those_of_the_public_data() -> None:
    assert " ".join(S2_BANDS) == "B04 B02 B03 B08 B8A B05 B06 B07 B11 B12"
    assert " ".join(S1_BANDS) == "VV VH"


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("tessera-v2-student", "5a606803d9efd5d5238ad773807c9c9c5a1d14499e6f38ab3f35a9bbeab70aa1"),
        ("tessera-v2-teacher", "1401f8638af9ff2a8f94a92a12c8824677a1ee668bc57144345e724a2695bc66"),
    ],
)
def test_digest_of_a_named_set_never_changes(name: str, digest: str) -> None:
    assert digest == NORMALISATIONS[name].digest
    assert name == NORMALISATIONS[name].name


def test_digest_follows_the_numbers_and_not_the_name() -> None:
    assert dataclasses.replace(STUDENT, name="other").digest == STUDENT.digest
    changed = (*STUDENT.s2_mean[:-1], STUDENT.s2_mean[-1] + 1e-4)
    assert dataclasses.replace(STUDENT, s2_mean=changed).digest != STUDENT.digest


def test_teacher_scales_both_orbits_alike_and_student_does_not() -> None:
    assert TEACHER.s1_asc_mean == TEACHER.s1_desc_mean
    assert TEACHER.s1_asc_std == TEACHER.s1_desc_std
    assert STUDENT.s1_asc_mean != STUDENT.s1_desc_mean


def test_normalise_equals_the_formula_in_float64() -> None:
    raw = np.random.default_rng(0).integers(0, 12000, (50, 10)).astype(np.uint16)
    expected = (raw.astype(np.float64) - STUDENT.s2_mean) / (np.array(STUDENT.s2_std) + 1e-9)
    actual = normalise(raw, STUDENT.s2_mean, STUDENT.s2_std)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_values_with_another_number_of_bands_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 10 bands"):
        normalise(np.zeros((3, 12), np.uint16), STUDENT.s2_mean, STUDENT.s2_std)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"s2_mean": (1.0,)}, "expected 10 numbers"),
        ({"s1_asc_std": (1.0, 0.0)}, "expected positive"),
        ({"s1_desc_mean": (float("nan"), 0.0)}, "expected finite"),
    ],
)
def test_impossible_statistics_are_refused(
    numbers: dict[str, tuple[float, ...]], message: str
) -> None:
    fields = STUDENT.numbers() | numbers
    with pytest.raises(ValueError, match=message):
        type(STUDENT)(name="broken", source="", **fields)
