import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, r2_score

from models.scores import balanced_accuracy, chance_adjusted_accuracy, clipped_r2, composite


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 9))
def test_accuracies_equal_those_of_scikit_learn(seed: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    true = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 40)])
    guess = np.where(rng.random(len(true)) < 0.6, true, rng.integers(0, num_classes, len(true)))
    expected = balanced_accuracy_score(true, guess)
    adjusted = balanced_accuracy_score(true, guess, adjusted=True)
    assert balanced_accuracy(true, guess) == pytest.approx(expected, rel=1e-12)
    assert chance_adjusted_accuracy(true, guess, num_classes) == pytest.approx(adjusted, abs=1e-12)


@given(seed=st.integers(0, 10_000), noise=st.floats(0.01, 5))
def test_r2_equals_that_of_scikit_learn_above_zero(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    true = rng.normal(size=30)
    guess = true + noise * rng.normal(size=30)
    assert clipped_r2(true, guess) == pytest.approx(max(0.0, r2_score(true, guess)), abs=1e-12)


def test_chance_counts_all_classes_of_the_task() -> None:
    true, guess = np.array(["a", "a", "b"]), np.array(["a", "c", "b"])
    assert balanced_accuracy(true, guess) == 0.75
    assert chance_adjusted_accuracy(true, guess, 4) == pytest.approx((0.75 - 0.25) / 0.75)


def test_guessing_one_class_scores_nothing_and_perfection_one() -> None:
    true = np.array([0, 0, 0, 1, 2])
    assert chance_adjusted_accuracy(true, np.zeros(5, int), 3) == pytest.approx(0)
    assert chance_adjusted_accuracy(true, true, 3) == 1
    assert clipped_r2(np.arange(5.0), np.full(5, 2.0)) == 0


def test_composite_is_the_mean_over_tasks() -> None:
    assert composite({"crops": 0.5, "biomass": 0.25}) == 0.375


def test_empty_or_unequal_input_is_refused() -> None:
    none = np.array([])
    with pytest.raises(ValueError, match="at least one item"):
        balanced_accuracy(none, none)
    with pytest.raises(ValueError, match="at least one item"):
        clipped_r2(none, none)
    with pytest.raises(ValueError, match="one length"):
        clipped_r2(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="at least one task"):
        composite({})


def test_scores_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="variance"):
        clipped_r2(np.ones(3), np.arange(3.0))
    with pytest.raises(ValueError, match="finite truth"):
        clipped_r2(np.array([1.0, 2.0]), np.array([np.nan, 1.0]))
    with pytest.raises(ValueError, match="num_classes"):
        chance_adjusted_accuracy(np.arange(3), np.arange(3), 2)
    with pytest.raises(ValueError, match="finite score for crops"):
        composite({"crops": float("nan")})
