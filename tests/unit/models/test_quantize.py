import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.quantize import dequantize, quantize

FLOATS = st.floats(-1e6, 1e6, width=32)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=FLOATS))
def test_error_is_at_most_half_a_step(embedding: np.ndarray) -> None:
    codes, scale = quantize(embedding)
    error = np.abs(dequantize(codes, scale).astype(np.float64) - embedding)
    assert (error <= scale[:, None].astype(np.float64) * 0.5 * (1 + 1e-4)).all()
    assert np.abs(codes.astype(int)).max() <= 127


def test_codes_reach_127_and_round_half_to_even() -> None:
    codes, scale = quantize(np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -127.0]], dtype=np.float32))
    assert scale.tolist() == [1.0]
    assert codes.tolist() == [[127, 0, 2, 2, 0, -127]]


def test_codes_of_a_prefix_are_a_prefix_of_the_codes() -> None:
    embedding = np.random.default_rng(0).normal(size=(5, 128)).astype(np.float32)
    codes, scale = quantize(embedding)
    restored = dequantize(codes[:, :16], scale)
    np.testing.assert_array_equal(dequantize(codes, scale)[:, :16], restored)


def test_scale_lies_where_a_normalised_embedding_puts_it() -> None:
    embedding = np.random.default_rng(0).normal(size=(500, 128))
    embedding -= embedding.mean(axis=1, keepdims=True)
    embedding /= embedding.std(axis=1, keepdims=True)
    _, scale = quantize(embedding)
    assert 1 / 127 <= scale.min() <= scale.max() <= np.sqrt(127) / 127


def test_pixel_without_embedding_has_no_scale_and_comes_back_as_nan() -> None:
    embedding = np.ones((2, 3, 4), dtype=np.float32)
    embedding[1, 2] = np.nan
    codes, scale = quantize(embedding)
    assert np.isnan(scale).sum() == 1
    assert np.isnan(scale[1, 2])
    assert not codes[1, 2].any()
    assert np.isnan(dequantize(codes, scale)[1, 2]).all()


def test_zero_vector_is_kept_as_zeros_with_a_finite_scale() -> None:
    codes, scale = quantize(np.zeros((1, 4), np.float32))
    assert not codes.any()
    assert scale[0] > 0


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_partly_broken_embedding_is_refused(fault: float) -> None:
    embedding = np.ones((2, 4), np.float32)
    embedding[0, 1] = fault
    with pytest.raises(ValueError, match="partly NaN or infinite"):
        quantize(embedding)


def test_scales_that_do_not_fit_the_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected int8 codes"):
        dequantize(np.zeros((2, 4), np.int8), np.ones(3, np.float32))
