import numpy as np
import pytest

from models.hashing import hash_u64, uniform


def _splitmix64_of(parts: list[int]) -> int:
    """Fold the published splitmix64 step over the parts in unbounded integers."""
    mask, state = 2**64 - 1, 0
    for part in parts:
        z = ((state ^ (part & mask)) + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        state = z ^ (z >> 31)
    return state


@pytest.mark.parametrize(
    ("seed", "first_output"), [(0, 0xE220A8397B1DCDAF), (1234567, 6457827717110365317)]
)
def test_one_part_gives_the_published_splitmix64_output(seed: int, first_output: int) -> None:
    assert first_output == int(hash_u64(seed))


@pytest.mark.parametrize(
    ("parts", "golden"),
    [
        ((1, 2), 0xBCD9DBB49673066B),
        ((2, 1), 0xE06DD043328BD285),
        ((20260101, 3, 2**63 + 5, 7), 0x1E75E123A9B06F2B),
        ((-1,), 0xE4D971771B652C20),
    ],
)
def test_hash_is_stable_for_ever(parts: tuple[int, ...], golden: int) -> None:
    assert golden == int(hash_u64(*parts))


def test_hash_equals_the_same_fold_in_unbounded_integers() -> None:
    rng = np.random.default_rng(1)
    parts = rng.integers(0, 2**64, (50, 3), dtype=np.uint64)
    expected = [_splitmix64_of([int(x) for x in row]) for row in parts]
    actual = hash_u64(parts[:, 0], parts[:, 1], parts[:, 2])
    assert expected == actual.tolist()


def test_array_and_scalar_parts_broadcast() -> None:
    grid = hash_u64(7, np.arange(3)[:, None], np.arange(4)[None, :])
    assert grid.shape == (3, 4)
    assert grid.dtype == np.uint64
    assert int(grid[2, 3]) == int(hash_u64(7, 2, 3))


def test_negative_numbers_wrap_alike_as_int_and_as_array() -> None:
    assert int(hash_u64(-5)) == int(hash_u64(np.array([-5]))[0])


def test_numbers_that_are_not_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        hash_u64(np.array([0.5]))
    with pytest.raises(ValueError, match="at least one part"):
        hash_u64()


def test_uniform_is_the_top_53_bits() -> None:
    bits = np.array([0, 2**64 - 1, 2**63], dtype=np.uint64)
    assert uniform(bits).tolist() == [0.0, 1 - 2.0**-53, 0.5]


def test_uniform_over_counters_looks_uniform_and_uncorrelated() -> None:
    draws = uniform(hash_u64(np.arange(300)[:, None], np.arange(300)[None, :]))
    histogram = np.histogram(draws, bins=20, range=(0, 1))[0]
    chi_square = np.sum((histogram - 4500) ** 2 / 4500)
    assert chi_square < 45  # 19 degrees of freedom: the 99.9 % point is 43.8
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.015
