"""The simulator's numbers against closed forms, scipy and published constants."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from tasks.simulator.curves import bump, rise, sine_of_turns, value_noise
from tasks.simulator.randomness import mix, mix_at, normal_at, uniform_at
from tasks.simulator.speckle import NUM_LOOKS, QUANTILES, speckle_at


def words(num: int, key: int = 1) -> npt.NDArray[Any]:
    return mix_at(key, np.arange(num))


def test_first_splitmix64_output_is_the_published_one() -> None:
    # The generator of Steele, Lea and Flood seeded with 0 starts with this word.
    assert mix(0) == 0xE220A8397B1DCDAF


def test_scalar_and_array_hashes_agree_also_for_negative_addresses() -> None:
    addresses = np.array([-(1 << 40), -1, 0, 7, 1 << 50])
    expected = [mix(5, 6, int(address)) for address in addresses]
    assert expected == mix_at(mix(5, 6), addresses).tolist()


def test_hashes_look_independent_and_uniform() -> None:
    numbers = uniform_at(words(1 << 16))
    assert stats.kstest(numbers, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.02


def test_normal_numbers_have_the_moments_of_a_normal() -> None:
    numbers = normal_at(words(1 << 18))
    assert numbers.mean() == pytest.approx(0.0, abs=0.01)
    assert numbers.std() == pytest.approx(1.0, abs=0.01)
    assert np.quantile(numbers, 0.975) == pytest.approx(1.96, abs=0.02)


def test_speckle_table_holds_the_quantiles_of_a_log_gamma_variable() -> None:
    places = np.arange(257) / 256
    places[0], places[-1] = 1 / 2048, 1 - 1 / 2048
    power = stats.gamma.ppf(places, NUM_LOOKS, scale=1 / NUM_LOOKS)
    assert np.rint(4000 * np.log10(power)).astype(int).tolist() == list(QUANTILES)


def test_speckle_has_the_moments_of_gamma_intensity() -> None:
    power = 10.0 ** (speckle_at(words(1 << 18)) / 4000)
    assert power.mean() == pytest.approx(1.0, abs=0.01)
    assert power.var() == pytest.approx(1 / NUM_LOOKS, rel=0.04)
    assert stats.skew(power) == pytest.approx(2 / math.sqrt(NUM_LOOKS), rel=0.1)


def test_sine_is_within_two_thousandths_of_the_sine() -> None:
    turns = np.linspace(-2, 2, 1001)
    found = [sine_of_turns(float(turn)) for turn in turns]
    assert np.abs(found - np.sin(2 * np.pi * turns)).max() < 0.002


def test_rise_and_bump_are_monotone_and_symmetric() -> None:
    x = np.linspace(-8, 8, 401)
    assert (np.diff(rise(x)) > 0).all()
    np.testing.assert_allclose(rise(x) + rise(-x), 1.0, atol=1e-15)
    np.testing.assert_allclose(bump(x), bump(-x))
    assert bump(np.array([0.0, 1.0])).tolist() == [1.0, 0.5]


def test_noise_does_not_depend_on_the_window() -> None:
    x, y = np.arange(-30.0, 50.0), np.arange(10.0, 40.0)
    whole = value_noise(3, x, y, 7.0)
    np.testing.assert_array_equal(whole[5:9, 40:60], value_noise(3, x[40:60], y[5:9], 7.0))
    assert np.abs(np.diff(whole, axis=1)).max() < 0.25  # continuous across lattice lines
