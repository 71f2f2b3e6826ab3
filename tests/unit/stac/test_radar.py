"""The radar code: the formula in whole, another arithmetic, and what is no number."""

import math

import numpy as np
import pytest

from tasks.errors import ParamsError
from tasks.stac.radar import encode, factor_of


def test_code_is_that_of_the_released_data_bit_for_bit() -> None:
    power = np.float32(10) ** np.random.default_rng(0).uniform(-6, 4, 200_000).astype(np.float32)
    expected = np.clip((20 * np.log10(power) + 50) * 200, 0, 32767).astype(np.int16)
    assert np.array_equal(encode(power), expected)


@pytest.mark.parametrize(("scale", "factor"), [("tessera", 20), ("db10", 10)])
def test_code_is_the_formula_in_double_precision_but_for_rounding(scale: str, factor: int) -> None:
    power = np.float32(10) ** np.linspace(-2.4, 3, 3001, dtype=np.float32)
    exact = np.array([(factor * math.log10(float(v)) + 50) * 200 for v in power])
    difference = encode(power, factor_of(scale)) - np.clip(np.trunc(exact), 0, 32767)
    assert np.abs(difference).max() <= 1
    is_at_a_step = np.abs(exact - np.round(exact)) < 0.01
    assert not difference[~is_at_a_step].any()


@pytest.mark.parametrize(
    ("power", "code"),
    [
        (0.1, 6000), (1.0, 10000), (10.0, 14000), (0.0, 0), (-1.0, 0), (-32768.0, 0),
        (float("nan"), 0), (float("inf"), 0), (1e-9, 0), (1e9, 32767),
    ],
)  # fmt: skip
def test_levels(power: float, code: int) -> None:
    assert encode(np.array([power], np.float32)).tolist() == [code]


def test_other_scales_are_refused() -> None:
    with pytest.raises(ParamsError, match="--s1-scale"):
        factor_of("linear")
