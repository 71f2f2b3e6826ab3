import numpy as np
import pytest
import torch

from models.stages import ColumnSums, Products, Staged, statistics, together, whole


def _rows(far: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, 50, 3, generator=generator, dtype=torch.float64) + far).float()


def test_statistics_are_those_of_numpy_for_each_view() -> None:
    x = _rows(far=300.0)
    mean, variance, rows = whole(statistics(x))
    wide = x.double().numpy()
    np.testing.assert_allclose(mean[:, 0], wide.mean(1), rtol=1e-12)
    np.testing.assert_allclose(variance[:, 0], wide.var(1), rtol=1e-9)
    assert set(rows.flatten().tolist()) == {50.0}


def test_slope_of_a_variance_keeps_its_digits_far_from_zero() -> None:
    x = _rows(far=3000.0).requires_grad_()
    _, variance, _ = whole(statistics(x))
    (slope,) = torch.autograd.grad(variance.sum(), x)
    wide = x.detach().double()
    torch.testing.assert_close(
        slope.double(), 2 * (wide - wide.mean(1, keepdim=True)) / 50, atol=1e-7, rtol=1e-6
    )


def test_constant_column_has_no_variance() -> None:
    _, variance, _ = whole(statistics(torch.full((7, 1), 1234.5678)))
    assert 0.0 <= float(variance) < 1e-9


@pytest.mark.parametrize("kind", [ColumnSums, Products])
def test_scalar_product_with_a_slope_is_that_of_the_value(kind: type) -> None:
    x = _rows().double().requires_grad_()
    row_sum = ColumnSums(x) if kind is ColumnSums else Products(x[0], x[1])
    slope = torch.randn_like(row_sum.value())
    expected = (row_sum.value() * slope).sum()
    found = row_sum.against(slope)
    torch.testing.assert_close(found, expected)
    one, two = (torch.autograd.grad(scalar, x)[0] for scalar in (found, expected))
    torch.testing.assert_close(one, two)


def test_moments_have_the_gradient_of_finite_differences() -> None:
    x = _rows().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ColumnSums(x).value(), x)


def _centred_times(x: torch.Tensor, times: int) -> Staged[torch.Tensor]:
    for _ in range(times):
        mean, _, _ = yield from statistics(x)
        x = (x - mean) ** 2
    return x


def test_computations_side_by_side_are_those_one_by_one_whatever_their_lengths() -> None:
    x = _rows().double()
    alone = [whole(_centred_times(x, times)) for times in (0, 3, 1)]
    side_by_side = whole(together([_centred_times(x, times) for times in (0, 3, 1)]))
    torch.testing.assert_close(side_by_side, alone)


def test_side_by_side_there_is_one_exchange_a_stage() -> None:
    staged = together([_centred_times(_rows().double(), times) for times in (3, 1)])
    wanted = next(staged)
    assert len(wanted) == 2
    for _ in range(2):
        wanted = staged.send([row_sum.value() for row_sum in wanted])
        assert len(wanted) == 1
    with pytest.raises(StopIteration):
        staged.send([row_sum.value() for row_sum in wanted])
