import numpy as np
import pytest
from scipy import stats

from models.correlation import pearson, spearman


@pytest.mark.parametrize("seed", range(4))
def test_both_are_those_of_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=12)
    y = np.round(x + random.normal(size=12))  # with ties
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_two_pairs_and_a_constant_have_no_correlation() -> None:
    line, constant = np.arange(4.0), np.ones(4)
    assert pearson(line[:2], line[:2]) is None
    assert pearson(line, constant) is None
    assert spearman(constant, line) is None
    assert pearson(line, -3 * line) == -1.0


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        pearson(np.zeros(3), np.zeros(4))
