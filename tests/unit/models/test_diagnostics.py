import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.diagnostics import (
    DIAGNOSE_EVERY,
    Moments,
    diagnose,
    effective_rank,
    redundancy,
    spread,
)
from tests.unit.models.processes import on_processes


def rows_of(num: int, width: int, seed: int = 0, offset: float = 0.0) -> Tensor:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width))
    return torch.from_numpy(offset + rng.standard_normal((num, width)) @ mixing)


def moments_of(*pieces: Tensor) -> Moments:
    moments = Moments(pieces[0].shape[1])
    for piece in pieces:
        moments.add(piece)
    return moments


def test_merged_moments_are_those_of_all_rows() -> None:
    rows = rows_of(90, 5, offset=1e3)
    together = Moments(5)
    for piece in (rows[:1], rows[1:51], rows[51:]):
        kept = moments_of(piece)
        together.merge(Moments.of(kept.count, kept.mean, kept.covariance))
    together.merge(Moments(5))
    assert together.count == 90
    torch.testing.assert_close(together.mean, rows.mean(0))
    torch.testing.assert_close(together.covariance, rows.T.cov(correction=0))


def rank_by_singular_values(rows: Tensor) -> float:
    centred = rows.numpy() - rows.numpy().mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    share = singular / singular.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.floats(-1e6, 1e6))
def test_moments_in_pieces_are_those_that_numpy_finds_in_one(
    sizes: list[int], offset: float
) -> None:
    rows = rows_of(sum(sizes) + 2, 5, offset=offset)
    moments = moments_of(*torch.split(rows, [*sizes, 2]))
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.numpy().mean(0), rtol=1e-12, atol=1e-9)
    expected = np.cov(rows.numpy(), rowvar=False, bias=True)
    np.testing.assert_allclose(moments.covariance, expected, rtol=1e-8, atol=1e-8)


def test_moments_of_half_precision_are_summed_in_float64() -> None:
    rows = torch.full((4000, 1), 300.0, dtype=torch.float16)
    rows[::2] += 0.25
    moments = moments_of(rows)
    assert float(moments.mean) == 300.125
    assert float(moments.covariance) == 0.125**2


def test_covariance_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        _ = Moments(3).covariance


@pytest.mark.parametrize("shape", [(4, 2), (3,)])
def test_rows_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected rows of width 3"):
        Moments(3).add(torch.zeros(shape))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_effective_rank_is_that_of_the_singular_values_of_the_centred_rows(offset: float) -> None:
    rows = rows_of(200, 12, offset=offset)
    expected = rank_by_singular_values(rows)
    assert effective_rank(moments_of(rows).covariance) == pytest.approx(expected, rel=1e-8)


def test_effective_rank_of_two_directions_has_its_closed_form() -> None:
    # Singular values 3 and 1: shares 3/4 and 1/4.
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.diag(torch.tensor([9.0, 1.0]))) == pytest.approx(expected)


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_even_spread_over_k_directions_has_rank_k(directions: int) -> None:
    eigenvalues = torch.zeros(8)
    eigenvalues[:directions] = 5.0
    assert effective_rank(torch.diag(eigenvalues)) == pytest.approx(directions)


def test_equal_rows_have_rank_zero() -> None:
    assert effective_rank(moments_of(torch.ones(7, 4)).covariance) == 0.0


def test_rows_on_a_line_have_rank_one_in_float32_as_well() -> None:
    line = torch.linspace(-1, 1, 100)[:, None] * torch.linspace(1, 2, 64)
    assert effective_rank(moments_of(line).covariance) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("matrix", [torch.zeros(2, 3), torch.full((2, 2), torch.nan)])
def test_what_is_no_covariance_is_refused(matrix: Tensor) -> None:
    with pytest.raises(ValueError, match="expected a"):
        effective_rank(matrix)


def test_dead_coordinates_are_counted() -> None:
    found = spread(torch.diag(torch.tensor([1.0, 3.0, 1e-6, 0.0])))
    assert found["dead_share"] == 0.5
    assert found["variance_min"] == 0.0
    assert found["variance_mean"] == pytest.approx(1.0, abs=1e-6)
    assert found["effective_rank_share"] == pytest.approx(found["effective_rank"] / 4)


def test_redundancy_is_what_numpy_finds_element_by_element() -> None:
    correlation = rows_of(6, 6, seed=3)
    matrix = correlation.numpy()
    off = [matrix[i, j] ** 2 for i in range(6) for j in range(6) if i != j]
    found = redundancy(correlation)
    assert found["correlation_diagonal"] == pytest.approx(np.diag(matrix).mean())
    assert found["correlation_off_diagonal"] == pytest.approx(np.mean(off))


def test_redundancy_of_one_coordinate_is_zero() -> None:
    assert redundancy(torch.ones(1, 1))["correlation_off_diagonal"] == 0.0


def test_the_covariance_is_looked_at_every_few_steps_only() -> None:
    rows, correlation = rows_of(20, 4), torch.eye(3)
    at_once = diagnose(0, rows, correlation)
    between = diagnose(1, rows, correlation)
    assert between == {"correlation_diagonal": 1.0, "correlation_off_diagonal": 0.0}
    assert at_once == between | spread(moments_of(rows).covariance)
    assert diagnose(DIAGNOSE_EVERY, rows) == spread(moments_of(rows).covariance)


def test_two_processes_find_the_diagnostics_of_the_whole_batch(tmp_path: Path) -> None:
    expected = diagnose(0, rows_of(21, 4, offset=7.0))
    for found in on_processes(2, _diagnosed, tmp_path):
        assert found == pytest.approx(expected, rel=1e-9)


def _diagnosed(rank: int) -> dict[str, float]:
    return diagnose(0, torch.split(rows_of(21, 4, offset=7.0), [8, 13])[rank])
