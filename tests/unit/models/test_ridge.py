import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.preprocessing import StandardScaler

from models.ridge import classify_out_of_fold, regress_out_of_fold

WIDTHS = (3, 8)


def items(num: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features of unequal scale, one of them constant, a hidden quantity, and folds."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(num, 8)) * np.logspace(-2, 2, 8) + 5
    features[:, 4] = 7.0
    standard = (features - features.mean(0)) / np.where(features.std(0) > 0, features.std(0), 1)
    quantity = standard @ random.normal(size=8) + random.normal(size=num)
    return features.astype(np.float32).astype(np.float64), quantity, random.integers(0, 3, num)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_classes_are_those_of_sklearns_balanced_ridge_classifier(num_classes: int) -> None:
    features, quantity, fold = items(300, seed=num_classes)
    # Unequal classes, so that their weights matter.
    edges = np.quantile(quantity, np.linspace(0, 1, num_classes + 1)[1:-1] ** 2)
    label = np.searchsorted(edges, quantity)
    found = classify_out_of_fold(features, label, fold, WIDTHS, 10.0)
    for width in WIDTHS:
        expected = np.zeros_like(label)
        for number in range(3):
            test = fold == number
            scaler = StandardScaler().fit(features[~test])
            model = RidgeClassifier(alpha=10.0, class_weight="balanced")
            model.fit(scaler.transform(features[~test])[:, :width], label[~test])
            expected[test] = model.predict(scaler.transform(features[test])[:, :width])
        np.testing.assert_array_equal(found[width], expected)
        assert len(np.unique(expected)) == num_classes


def test_quantities_are_those_of_sklearns_ridge() -> None:
    features, quantity, fold = items(120, seed=9)
    found = regress_out_of_fold(features, quantity, fold, WIDTHS, 10.0)
    for width in WIDTHS:
        for number in range(3):
            test = fold == number
            scaler = StandardScaler().fit(features[~test])
            model = Ridge(alpha=10.0).fit(
                scaler.transform(features[~test])[:, :width], quantity[~test]
            )
            expected = model.predict(scaler.transform(features[test])[:, :width])
            np.testing.assert_allclose(found[width][test], expected, atol=1e-9)


def test_a_class_that_a_training_set_lacks_is_never_predicted() -> None:
    features, _, _ = items(40, seed=1)
    label = np.repeat([0, 1, 2, 3], 10)
    fold = np.where(label == 2, 0, np.arange(40) % 2)
    found = classify_out_of_fold(features, label, fold, (8,), 1.0)[8]
    assert 2 not in found[fold == 0]


def test_a_single_fold_leaves_nothing_to_fit_on_and_is_refused() -> None:
    features, quantity, _ = items(10, seed=1)
    with pytest.raises(ValueError, match="at least 2 folds, got 1"):
        regress_out_of_fold(features, quantity, np.zeros(10, np.int64), (8,), 1.0)
