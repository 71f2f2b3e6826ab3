"""Probes, folds and intervals against scikit-learn, brute force and planted leaks."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import poisson
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.preprocessing import StandardScaler

from models.dpixel import DPixels, Series
from models.hashing import hash_u64, uniform
from models.scores import chance_adjusted_accuracy, clipped_r2
from tasks.evaluation.composites import QUANTILES, SEASON_STARTS, composite_features
from tasks.evaluation.labels import Task
from tasks.evaluation.leaderboard import Leaderboard, Standing
from tasks.evaluation.probes import Score, folds_of, probe
from tasks.evaluation.resampling import resampled_scores
from tasks.tiles import Array
from tests.builders import SECTION

Kind = Literal["classification", "regression"]

Labels = dict[tuple[int, str], Array]


def make_task(
    kind: Kind = "classification", *, groups: int = 24, per_group: int = 10, seed: int = 0
) -> Task:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), per_group)
    if kind == "classification":
        value = np.array([3, 11, 40])[group % 3]
    else:
        value = rng.normal(size=groups)[group] + 0.1 * rng.normal(size=len(group))
    return Task(kind, kind, np.zeros_like(group), np.arange(len(group)), group, value, 3, {})


def one_hot(values: Array) -> NDArray[np.float32]:
    return np.asarray(values[:, None] == np.unique(values), np.float32)


def test_no_group_is_in_both_train_and_test() -> None:
    task = make_task()
    fold = folds_of(task, seed=1)
    assert all(len(np.unique(fold[task.group == group])) == 1 for group in np.unique(task.group))
    assert {0, 1, 2} == set(fold)


def test_every_class_is_trained_on_in_every_fold() -> None:
    task = make_task()
    fold = folds_of(task, seed=1)
    for number in range(task.folds):
        assert set(task.value[fold != number]) == set(task.classes)


def test_features_that_say_the_class_score_one() -> None:
    task = make_task()
    score = probe(one_hot(task.value), task, folds_of(task, 1), SECTION)
    assert (score.score, score.raw, score.ci_low, score.ci_high) == (1.0, 1.0, 1.0, 1.0)


def test_features_that_only_know_the_group_do_no_better_than_chance() -> None:
    task = make_task(groups=60)
    # Within one group the answer is constant, so a split by pixel would score 1 on this.
    score = probe(one_hot(task.group), task, folds_of(task, 1), SECTION)
    assert score.score < 0.2


def test_a_sensor_that_was_never_observed_is_filled_and_does_not_stop_the_probe() -> None:
    task = make_task()
    features = np.concatenate([one_hot(task.value), np.full((240, 2), np.nan, np.float32)], axis=1)
    assert probe(features, task, folds_of(task, 1), SECTION).score == 1.0


def test_scores_are_those_of_scikit_learn() -> None:
    task = make_task()
    noisy = one_hot(task.value) + np.random.default_rng(2).normal(size=(240, 3)).astype(np.float32)
    section = SECTION.model_copy(update={"bootstrap": 2})
    fold = folds_of(task, 1)
    score = probe(noisy, task, fold, section)
    said = np.zeros(240, np.int64)
    for number in range(3):
        train, test = fold != number, fold == number
        scale = StandardScaler().fit(noisy[train].astype(np.float64))
        model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=5000)
        model.fit(scale.transform(noisy[train].astype(np.float64)), task.value[train])
        said[test] = model.predict(scale.transform(noisy[test].astype(np.float64)))
    assert 0.4 < score.raw < 0.95
    assert score.raw == pytest.approx(balanced_accuracy_score(task.value, said))
    adjusted = balanced_accuracy_score(task.value, said, adjusted=True)
    assert score.score == pytest.approx(adjusted)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_bootstrap_equals_rescoring_the_drawn_groups_one_by_one(kind: Kind) -> None:
    task = make_task(kind, groups=12)
    task = replace(task, group=task.group * 7 + 5)  # the task sees 12 groups of a larger archive
    rng = np.random.default_rng(5)
    if kind == "classification":
        predicted = np.where(rng.random(120) < 0.6, task.value, 3)
    else:
        predicted = task.value + rng.normal(size=120)
    drawn = resampled_scores(task, predicted, seed=9, bootstrap=20)
    for number in range(20):
        times = poisson.ppf(uniform(hash_u64(9, number, task.group)), 1).astype(int)
        true, guess = np.repeat(task.value, times), np.repeat(predicted, times)
        if kind == "regression":
            expected = max(0.0, r2_score(true, guess))
        else:
            expected = (balanced_accuracy_score(true, guess) - 1 / 3) / (2 / 3)
        assert drawn[number] == pytest.approx(expected, abs=1e-12)


def test_a_draw_takes_the_same_ground_in_tasks_that_see_different_parts_of_it() -> None:
    whole = make_task(groups=60)
    # In the first third everything is right, elsewhere nothing is.
    third = np.flatnonzero(whole.group < 20)
    wrong = np.where(whole.value == 3, 11, 3)
    predicted = np.where(whole.group < 20, whole.value, wrong)
    part = whole.take(np.flatnonzero(whole.group < 40))
    seen = predicted[whole.group < 40]
    one, other = (
        resampled_scores(task, guess, seed=1, bootstrap=400)
        for task, guess in ((whole, predicted), (part, seen))
    )
    assert np.corrcoef(one, other)[0, 1] > 0.6
    same = resampled_scores(whole.take(third), predicted[third], seed=1, bootstrap=5)
    assert (same == 1).all()


def test_a_draw_without_any_group_counts_with_the_score_of_all() -> None:
    task = make_task(groups=3)
    predicted = np.where(task.value == 40, 3, task.value)
    drawn = resampled_scores(task, predicted, seed=1, bootstrap=300)
    assert np.isfinite(drawn).all()
    weights = poisson.ppf(uniform(hash_u64(1, np.arange(300)[:, None], np.arange(3))), 1)
    empty = (weights > 0).sum(axis=1) < 2
    assert empty.any()
    np.testing.assert_allclose(drawn[empty], 0.5)


def test_the_interval_is_wider_when_pixels_come_in_fewer_groups() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = make_task(groups=12, per_group=40), make_task(groups=240, per_group=2)

    # Whole groups are right or wrong, as fields are.
    def spread(task: Task) -> float:
        wrong = rng.random(task.group.max() + 1)[task.group] < 0.4
        predicted = np.where(wrong, 3, task.value)
        low, high = np.quantile(
            resampled_scores(task, predicted, seed=1, bootstrap=200), [0.025, 0.975]
        )
        return float(high - low)

    assert spread(wide) > 2 * spread(narrow)


def test_unadjusted_definitions_agree_with_the_models_package() -> None:
    task, rng = make_task("regression"), np.random.default_rng(1)
    guess = task.value + rng.normal(size=len(task.value))
    assert clipped_r2(task.value, guess) == pytest.approx(max(0, r2_score(task.value, guess)))
    codes = make_task().value
    assert chance_adjusted_accuracy(codes, np.full_like(codes, 3), 3) == pytest.approx(0.0)


def test_composites_are_quantiles_by_season_and_fall_back_to_the_year() -> None:
    rng = np.random.default_rng(4)
    days = np.array([5, 20, 60, 200, 230, 300], np.int16)  # nothing in the second quarter
    values = rng.integers(0, 9000, (6, 10)).astype(np.uint16)
    none = Series(np.zeros((0, 2), np.int16), np.zeros(0, np.int16), np.zeros(2, np.int64))
    dpixels = DPixels(np.zeros(1, np.uint64), Series(values, days, np.array([0, 6])), none, none)
    found = composite_features(dpixels)[0]
    season = np.searchsorted(SEASON_STARTS, days, side="right") - 1
    for number in range(4):
        members = values[season == number] if (season == number).any() else values
        expected = np.quantile(members.astype(float), QUANTILES, axis=0).T.ravel()
        np.testing.assert_allclose(found[number * 30 : number * 30 + 30], expected, rtol=1e-5)
    assert np.isnan(found[120:]).all()


def standing(model: str, draws: list[float], task: str = "crop") -> Standing:
    mean = float(np.mean(draws))
    named = replace(make_task(), name=task)
    return Standing(named, model, 16, Score(mean, mean, mean, mean, np.array(draws)), 100)


def board_of(*rows: Standing, sizes: dict[str, int]) -> Leaderboard:
    board = Leaderboard(sizes, 16)
    for row in rows:
        board.add(row)
    return board


def test_equal_composites_go_to_the_smaller_student() -> None:
    rows = standing("big", [0.4, 0.6]), standing("little", [0.6, 0.4])
    best, reason = board_of(*rows, sizes={"big": 9, "little": 3}).best()
    assert best == "little"
    assert "ahead of big by 0.0000" in reason
    assert "not a clear lead" in reason


def test_lead_is_clear_when_every_draw_agrees_though_the_intervals_overlap() -> None:
    rows = standing("a", [0.2, 0.5, 0.8]), standing("b", [0.3, 0.6, 0.9])
    best, reason = board_of(*rows, sizes={"a": 1, "b": 2}).best()
    assert best == "b"
    assert reason.endswith("by 0.1000 [0.1000, 0.1000], a clear lead")


def test_composite_is_the_mean_of_the_tasks_and_its_interval_that_of_the_summed_draws() -> None:
    # The tasks err in opposite draws, so their mean does not vary at all.
    rows = standing("a", [0.2, 0.6], "crop"), standing("a", [0.6, 0.2], "height")
    board = board_of(*rows, sizes={"a": 1})
    assert board.composites() == {"a": {16: pytest.approx(0.4)}}
    assert board.intervals()["a"][16] == pytest.approx((0.4, 0.4))


def test_without_scores_the_largest_student_is_best() -> None:
    assert board_of(sizes={"a": 1, "b": 2}).best()[0] == "b"
