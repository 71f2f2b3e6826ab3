"""Counter-based random numbers: a pure function from whole numbers to whole numbers.

The one idea: a random decision is an address, not a moment. Hashing (run seed, epoch, row, ...)
gives the same number in whatever batch, rank, process or year it is asked for, so a resumed or
re-sharded run draws the views that the uninterrupted one would have drawn. The hash is the
finaliser of splitmix64 folded over the parts; its values are frozen by golden tests because data
on disk depends on them.

It deliberately holds no state and is no substitute for cryptographic hashing.

Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Integer, UInt64

Part = int | np.integer | Integer[np.ndarray, "..."] | Sequence[int]
"""What may be hashed: a whole number or an array of them; negative ones wrap modulo 2**64."""

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash_u64(*parts: Part) -> UInt64[np.ndarray, "..."]:
    """Hash the parts, in order, into 64 uniformly distributed bits.

    `hash_u64(x)` is the first output of a splitmix64 generator seeded with x; each further part is
    folded into the state, so `hash_u64(a, b)` and `hash_u64(b, a)` differ.

    Args:
        *parts: at least one whole number or array of whole numbers; arrays broadcast.

    Returns:
        uint64 of the broadcast shape of the parts.

    Raises:
        ValueError: for no part, or for a part that is not a whole number.
    """
    if not parts:
        raise ValueError("expected at least one part to hash, got none")
    state: np.ndarray = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        for part in parts:
            state = _finalise(np.asarray((state ^ _as_u64(part)) + _GOLDEN_GAMMA))
    return state


def uniform(bits: UInt64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Map 64 random bits to a float64 in [0, 1): the top 53 bits times 2**-53, exactly."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _finalise(state: np.ndarray) -> np.ndarray:
    # numpy turns the result of arithmetic on 0-d arrays into a scalar; asarray turns it back.
    state = np.asarray((state ^ (state >> np.uint64(30))) * _MIX_1)
    state = np.asarray((state ^ (state >> np.uint64(27))) * _MIX_2)
    return np.asarray(state ^ (state >> np.uint64(31)))


def _as_u64(part: Part) -> np.ndarray:
    if isinstance(part, int):
        return np.asarray(part % 2**64, dtype=np.uint64)
    array = np.asarray(part)
    if array.dtype.kind not in "iu":
        raise ValueError(f"expected whole numbers to hash, got dtype {array.dtype}")
    return array.astype(np.uint64)
