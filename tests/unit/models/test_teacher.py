import numpy as np
import pytest
import torch

from models.architecture import TeacherConfig
from models.bands import NORMALISATIONS
from models.encode import Encoder
from models.released import RELEASED_LADDER
from models.stages import statistics, whole
from models.teacher import TEACHERS, GlobalBatchNorm, Projector, Teacher
from tests.unit.models.golden_forward import formula_tile, formula_weights

NORMALISATION = NORMALISATIONS["tessera-v2-teacher"]


def _golden_teacher() -> Teacher:
    config = TeacherConfig(latent=16, layers=2, heads=4, feedforward=128, repr_dim=32)
    teacher = Teacher(config)
    formula_weights(teacher)
    return teacher


@pytest.mark.parametrize(
    ("preset", "least", "most"),
    [
        ("demo", 300_000, 500_000),
        ("1b", 950_000_000, 1_050_000_000),
        ("2b", 2_064_266_242, 2_064_266_242),
    ],
)
def test_presets_have_the_published_numbers_of_parameters(
    preset: str, least: int, most: int
) -> None:
    with torch.device("meta"):
        teacher = Teacher(TEACHERS[preset])
    assert least <= sum(p.numel() for p in teacher.parameters()) <= most


def test_embeddings_agree_with_the_released_code() -> None:
    teacher = _golden_teacher()
    assert sum(p.numel() for p in teacher.parameters()) == 252_258
    embeddings = Encoder(teacher, NORMALISATION, RELEASED_LADDER).encode(formula_tile())
    first = [0.203970, 0.578013, -0.460797, -0.659060, 1.082270, 0.892666]
    np.testing.assert_allclose(embeddings[0, :6], first, atol=1e-4)
    without_s2 = [0.229868, 0.206225, -1.704337, -0.219452, 0.119228, 1.006052]
    np.testing.assert_allclose(embeddings[3, :6], without_s2, atol=1e-4)
    weighted = embeddings.astype(np.float64) @ (np.arange(1, 33) / 32)
    np.testing.assert_allclose(weighted, [-2.37884, -2.20198, -1.86461, 0.29722], atol=5e-4)


def test_pixel_without_s1_agrees_and_pixel_with_nothing_is_no_data() -> None:
    tile = formula_tile(radar=False)
    embeddings = Encoder(_golden_teacher(), NORMALISATION, RELEASED_LADDER).encode(tile)
    first = [0.370939, -0.721363, -0.841166, -0.110598, -1.123152, -0.314777]
    np.testing.assert_allclose(embeddings[0, :6], first, atol=1e-4)
    assert np.isnan(embeddings[3]).all()


def test_sensors_are_told_apart_by_the_modality_embedding() -> None:
    teacher = _golden_teacher()
    pooled = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    before = teacher.fuse(pooled, pooled)
    with torch.no_grad():
        teacher.fusion_modality_embed.add_(torch.tensor([[1.0], [-1.0]]))
    assert (teacher.fuse(pooled, pooled) - before).abs().max() > 1e-3


def test_projector_equals_linear_maps_with_the_batch_norm_of_torch() -> None:
    projector = Projector(6, 8, 3)
    truth = torch.nn.Sequential(
        torch.nn.Linear(6, 8, bias=False),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 8, bias=False),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 8, bias=False),
    )
    weights = {name.removeprefix("net."): w for name, w in projector.state_dict().items()}
    truth.load_state_dict(weights, strict=False)
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projector(x), truth(x), atol=1e-5, rtol=1e-4)


def test_projector_holds_no_running_statistics() -> None:
    assert not list(Projector(6, 8, 3).buffers())
    assert [p.shape for p in Projector(6, 8, 1).parameters()] == [(8, 6)]


def test_projector_of_no_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Projector(6, 8, 0)


def _normal(norm: GlobalBatchNorm, x: torch.Tensor) -> torch.Tensor:
    mean, variance, _ = whole(statistics(x))
    normal: torch.Tensor = norm(x, mean, variance)
    return normal


def test_global_batch_norm_equals_that_of_torch_in_one_process() -> None:
    ours, truth = GlobalBatchNorm(4), torch.nn.BatchNorm1d(4)
    truth.load_state_dict(ours.state_dict(), strict=False)
    x = 5 + 3 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(_normal(ours, one), truth(two), atol=1e-6, rtol=1e-5)
    (_normal(ours, one) * weight).sum().backward()  # type: ignore[no-untyped-call]  # torch has no types
    (truth(two) * weight).sum().backward()
    torch.testing.assert_close(one.grad, two.grad, atol=1e-6, rtol=1e-4)


def test_global_batch_norm_keeps_its_digits_far_from_zero() -> None:
    x = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)).double()
    expected = (x - x.mean()) / x.std(unbiased=False)
    actual = _normal(GlobalBatchNorm(1, eps=0.0), (x + 3000).float())
    torch.testing.assert_close(actual.detach().double(), expected, atol=1e-3, rtol=0)


def test_constant_feature_is_normalised_to_the_shift() -> None:
    x = torch.full((6, 2), 1234.5678)
    torch.testing.assert_close(_normal(GlobalBatchNorm(2), x), torch.zeros(6, 2))


def test_wrong_number_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(batch, 4\)"):
        _normal(GlobalBatchNorm(4), torch.zeros(2, 3))
