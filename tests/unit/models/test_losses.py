import numpy as np
import pytest
import torch

from models.losses import Twins, barlow_twins, mix_views, prefix_distillation, standardise
from models.stages import whole
from models.student import PrefixHeads


def _projections(seed: int, rows: int = 24, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, width, generator=generator, dtype=torch.float64) + 2


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    y = (y - y.mean(0)) / y.std(0, ddof=1)
    return np.asarray(x.T @ y / len(x))


def _twins(*views: torch.Tensor, weight: float = 5e-3, alpha: float | None = None) -> Twins:
    return whole(barlow_twins(torch.stack(views), weight, alpha))


def test_barlow_twins_equals_a_plain_numpy_version() -> None:
    za, zb = _projections(1), _projections(2) + _projections(1)
    c = _correlation(za.numpy(), zb.numpy())
    off = c - np.diag(np.diag(c))
    expected = ((np.diag(c) - 1) ** 2).sum() + 5e-3 * (off**2).sum()
    twins = _twins(za, zb)
    assert float(twins.loss) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(twins.correlation, c, atol=1e-9)


def test_barlow_twins_of_a_case_worked_by_hand() -> None:
    # Columns (1,-1,1,-1) and (1,1,-1,-1) are orthogonal; unbiased, C_ii = 3/4 and C_ij = 0.
    z = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert float(_twins(z, z, weight=0.5).loss) == pytest.approx(2 / 16, abs=1e-9)
    swapped = z.flip(1)  # the diagonal is now 0 and the off-diagonal 3/4
    assert float(_twins(z, swapped, weight=0.5).loss) == pytest.approx(
        2 + 0.5 * 2 * 9 / 16, abs=1e-9
    )


def test_barlow_twins_does_not_change_with_scale_and_shift_of_a_coordinate() -> None:
    za, zb = _projections(1), _projections(2)
    scaled = zb * torch.linspace(0.5, 4, 7, dtype=torch.float64) - 9
    assert float(_twins(za, scaled).loss) == pytest.approx(float(_twins(za, zb).loss))


def test_constant_coordinate_keeps_loss_and_gradient_finite() -> None:
    za = _projections(1).float()
    za[:, 3] = 4.0
    za.requires_grad_()
    loss = _twins(za, _projections(2).float()).loss
    (gradient,) = torch.autograd.grad(loss, za)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_half_precision_projections_are_compared_in_float32() -> None:
    za = _projections(1).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _twins(za, za).loss
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(_twins(za.double(), za.double()).loss), rel=1e-4)


def test_standardised_columns_have_mean_zero_and_unbiased_variance_one() -> None:
    z, rows = whole(standardise(_projections(3)[None]))
    assert float(rows) == 24
    z = z[0]
    torch.testing.assert_close(z.mean(0), torch.zeros_like(z[0]), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.var(0), torch.ones_like(z[0]), atol=1e-9, rtol=0)


def test_mixup_equals_the_published_six_correlation_form() -> None:
    m, a, b = (_projections(seed).numpy() for seed in (4, 5, 6))
    b_mixed, alpha = b[np.arange(24) ^ 1], 0.3
    goal_a = alpha * _correlation(a, a) + (1 - alpha) * _correlation(b_mixed, a)
    goal_b = alpha * _correlation(a, b) + (1 - alpha) * _correlation(b_mixed, b)
    expected = ((_correlation(m, a) - goal_a) ** 2).sum()
    expected += ((_correlation(m, b) - goal_b) ** 2).sum()
    twins = _twins(*map(torch.from_numpy, (a, b, m)), alpha=alpha)
    assert twins.mixup is not None
    assert float(twins.mixup) == pytest.approx(5e-3 * expected, rel=1e-9)
    alone = _twins(*map(torch.from_numpy, (a, b)))
    assert alone.mixup is None
    assert float(alone.loss) == pytest.approx(float(twins.loss), rel=1e-12)


def test_mixup_is_zero_when_nothing_is_mixed_and_views_agree() -> None:
    a = _projections(1)
    twins = _twins(a, _projections(2), a, weight=1.0, alpha=1.0)
    assert twins.mixup is not None
    assert float(twins.mixup) == pytest.approx(0, abs=1e-20)


def test_mixed_view_is_between_a_row_and_its_partner() -> None:
    a, b = torch.zeros(4, 3, 1), torch.tensor([1.0, 5.0, 9.0, 17.0])[:, None, None].expand(4, 3, 1)
    mixed = mix_views(a, b, 0.75)
    assert mixed[:, 0, 0].tolist() == [1.25, 0.25, 4.25, 2.25]


def test_prefix_distillation_equals_a_plain_numpy_version() -> None:
    heads = PrefixHeads((2, 4, 8), target_dim=5)
    s, t = _projections(1, width=8).float(), _projections(2, width=5).float()
    expected = 0.0
    for k, head in zip((2, 4, 8), heads.heads, strict=True):
        weight, bias = (p.detach().double().numpy() for p in head.parameters())
        h = s[:, :k].double().numpy() @ weight.T + bias
        goal = t.double().numpy()
        cosine = (h * goal).sum(1) / np.linalg.norm(h, axis=1) / np.linalg.norm(goal, axis=1)
        expected += (1 - cosine).mean()
    assert prefix_distillation(s, heads, t).item() == pytest.approx(expected, rel=1e-5)


def test_prefix_distillation_is_zero_for_a_perfect_reconstruction() -> None:
    heads = PrefixHeads((4,), target_dim=4)
    heads.load_state_dict({"heads.0.weight": 2 * torch.eye(4), "heads.0.bias": torch.zeros(4)})
    s = _projections(1, width=4).float()
    assert prefix_distillation(s, heads, s).item() == pytest.approx(0, abs=1e-6)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    z = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="expected \\(3 views, batch, width\\), got \\(2, 4, 3\\)"):
        _twins(z, z, alpha=0.5)
    with pytest.raises(ValueError, match="expected targets"):
        prefix_distillation(torch.zeros(4, 8), PrefixHeads((8,), 5), torch.zeros(4, 6))
    with pytest.raises(ValueError, match="mixing share"):
        mix_views(z, z, 1.5)
    with pytest.raises(ValueError, match="even number of rows"):
        mix_views(z[:3], z[:3], 0.5)
