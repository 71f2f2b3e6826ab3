import numpy as np
import pytest
import torch

from models.architecture import StudentConfig
from models.bands import NORMALISATIONS
from models.encode import Encoder
from models.quantize import quantize
from models.released import RELEASED_LADDER
from models.student import STUDENTS, PrefixHeads, Student
from tests.unit.models.golden_forward import formula_tile, formula_weights

NORMALISATION = NORMALISATIONS["tessera-v2-student"]


def _golden_student(*, qk_norm: bool) -> Student:
    student = Student(StudentConfig(latent=16, layers=2, heads=4, feedforward=128, qk_norm=qk_norm))
    formula_weights(student)
    return student


@pytest.mark.parametrize(
    ("size", "num_parameters"),
    [("N", 1_066_402), ("S", 7_112_322), ("M", 21_028_930), ("L", 43_831_170)],
)
def test_family_has_the_published_numbers_of_parameters(size: str, num_parameters: int) -> None:
    with torch.device("meta"):
        student = Student(STUDENTS[size])
    assert num_parameters == sum(p.numel() for p in student.parameters())


def test_formula_weights_are_the_published_ones() -> None:
    state = _golden_student(qk_norm=False).state_dict()
    published = {
        "dim_reducer.0.bias": [0.0480, 0.0129, -0.0091],
        "dim_reducer.0.weight": [-0.1130, -0.0360, -0.0437],
        "dim_reducer.1.weight": [1.0651, 1.0077, 0.9069],
    }
    for name, first in published.items():
        np.testing.assert_allclose(state[name].flatten()[:3].tolist(), first, atol=5e-5)


def test_golden_tile_has_the_published_counts() -> None:
    tile = formula_tile()
    assert tile.s2.counts.tolist() == [8, 8, 8, 0]
    assert tile.s1_asc.counts.tolist() == [6, 7, 7, 7]
    assert tile.s1_desc.counts.tolist() == [5, 6, 6, 5]


@pytest.mark.parametrize(
    ("qk_norm", "num_parameters", "first", "without_s2", "weighted"),
    [
        (
            False,
            209_666,
            [-0.775785, 0.478305, -0.107249, 1.143558, -1.513321, 0.221469],
            [-0.833023, -0.017090, -0.416962, 1.915239, -0.245916, 0.321429],
            [2.11369, 1.58549, 2.40632, 3.66557],
        ),
        (
            True,
            209_794,
            [3.096840, -1.106244, -1.054996, 0.815374, -0.034812, -0.020529],
            [2.445887, -0.471389, -0.866294, 0.637284, -0.544486, -0.690651],
            [-9.26207, -7.92114, -8.67982, -7.16045],
        ),
    ],
    ids=["plain", "qk-norm"],
)
def test_embeddings_agree_with_the_released_code(
    qk_norm: bool,
    num_parameters: int,
    first: list[float],
    without_s2: list[float],
    weighted: list[float],
) -> None:
    student = _golden_student(qk_norm=qk_norm)
    assert num_parameters == sum(p.numel() for p in student.parameters())
    embeddings = Encoder(student, NORMALISATION, RELEASED_LADDER).encode(formula_tile())
    np.testing.assert_allclose(embeddings[0, :6], first, atol=1e-4)
    np.testing.assert_allclose(embeddings[3, :6], without_s2, atol=1e-4)
    ramp = np.arange(1, 129) / 128
    np.testing.assert_allclose(embeddings.astype(np.float64) @ ramp, weighted, atol=5e-4)


@pytest.mark.parametrize(
    ("qk_norm", "first"),
    [
        (False, [0.313915, 0.963374, -0.595303, 1.191660, -1.758274, 0.064442]),
        (True, [2.098212, -0.391889, -0.226654, 0.267191, 0.338905, -1.117324]),
    ],
    ids=["plain", "qk-norm"],
)
def test_pixel_without_s1_agrees_with_the_released_code(qk_norm: bool, first: list[float]) -> None:
    tile = formula_tile(radar=False)
    embeddings = Encoder(_golden_student(qk_norm=qk_norm), NORMALISATION, RELEASED_LADDER).encode(
        tile
    )
    np.testing.assert_allclose(embeddings[0, :6], first, atol=1e-4)


def test_codes_agree_with_the_released_code() -> None:
    student = _golden_student(qk_norm=False)
    codes, scale = quantize(Encoder(student, NORMALISATION, RELEASED_LADDER).encode(formula_tile()))
    assert codes[0, :12].tolist() == [-30, 18, -4, 44, -58, 9, 70, -24, -22, 32, 37, -7]
    np.testing.assert_allclose(scale, [0.026011, 0.025482, 0.026003, 0.024976], atol=1e-6)


def test_parameter_names_are_the_released_ones() -> None:
    plain = list(_golden_student(qk_norm=False).state_dict())
    assert len(plain) == 66
    layer = "s2_backbone.transformer_encoder.layers.1.self_attn.in_proj_weight"
    assert {layer, "s1_backbone.attn_pool.query.bias", "dim_reducer.4.weight"} <= set(plain)
    qk = _golden_student(qk_norm=True).state_dict()
    assert "s1_backbone.transformer_encoder.1.q_norm.weight" in qk


def test_embedding_has_mean_zero_and_variance_one() -> None:
    student = _golden_student(qk_norm=False)
    embeddings = Encoder(student, NORMALISATION, RELEASED_LADDER).encode(formula_tile())
    np.testing.assert_allclose(embeddings.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(embeddings.std(axis=1), 1, atol=1e-4)


def test_prefix_head_reads_its_prefix_only() -> None:
    heads = PrefixHeads((2, 5), target_dim=7)
    embedding = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    changed = embedding.clone()
    changed[:, 2:] += 1
    short, full = heads(embedding)
    short_again, full_again = heads(changed)
    assert short.shape == full.shape == (3, 7)
    assert torch.equal(short, short_again)
    assert (full != full_again).any()


def test_embedding_shorter_than_the_longest_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 5 coordinates"):
        PrefixHeads((2, 5), target_dim=7)(torch.zeros(1, 4))
