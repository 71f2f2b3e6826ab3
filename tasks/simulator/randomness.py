"""Randomness by address: the same place, day and purpose give the same number for ever.

There is no generator and no state. Every random number is the splitmix64 hash of *what it is for*:
a stream (one number per purpose), then coordinates such as pixel row, pixel column and day. A tile
can therefore be made alone, in any order and on any machine, and still fit its neighbours.

Python integers and numpy arrays go through the same arithmetic modulo 2**64. Floats appear only at
the very end, by exact conversions. Distributions are limited to what elementwise IEEE arithmetic
gives exactly: uniform, and a near-normal that is the sum of four 16-bit uniforms (Irwin-Hall).
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_WORD = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_MULTIPLY_1 = 0xBF58476D1CE4E5B9
_MULTIPLY_2 = 0x94D049BB133111EB
# Four 16-bit uniforms: mean of their sum, 1 / standard deviation sqrt(4 (2**32 - 1) / 12).
_SUM_MEAN = 131070.0
_SUM_INVERSE_STD = 2.6428997921303014e-05


class Stream(IntEnum):
    """What a random number is for; the value is part of the archive's bytes and never changes."""

    PARCEL_SHAPE = 1
    LAND_USE = 2
    PARCEL_TRAIT = 3
    SEASON = 4
    WEATHER = 5
    CLOUD = 6
    TEXTURE = 7
    OPTICAL_NOISE = 8
    CLOUD_MASK = 9
    SPECKLE = 10
    ACQUISITION = 11
    BLIND = 12
    SNOW = 13
    RADAR_TRAIT = 14


def mix(*parts: int) -> int:
    """Hash integers (any sign, taken modulo 2**64) to one 64-bit word, order mattering."""
    word = 0
    for part in parts:
        word = (word ^ (part & _WORD)) + _STEP & _WORD
        word = (word ^ word >> 30) * _MULTIPLY_1 & _WORD
        word = (word ^ word >> 27) * _MULTIPLY_2 & _WORD
        word ^= word >> 31
    return word


def mix_at(word: int, *addresses: I64 | U64) -> U64:
    """Continue ``mix`` elementwise over broadcast integer arrays.

    Args:
        word: A hash from ``mix``.
        *addresses: Integer arrays that broadcast against each other; smallest first is fastest.

    Returns:
        uint64 array of the broadcast shape; element ``i`` equals ``mix(..., address[i])``.
    """
    state = np.full((1,), word, dtype=np.uint64)
    for address in addresses:
        state = (state ^ address.astype(np.uint64)) + np.uint64(_STEP)
        state = (state ^ state >> np.uint64(30)) * np.uint64(_MULTIPLY_1)
        state = (state ^ state >> np.uint64(27)) * np.uint64(_MULTIPLY_2)
        state ^= state >> np.uint64(31)
    return state


def uniform(word: int) -> float:
    """Turn one word into a float64 in [0, 1) with 53 random bits."""
    return (word >> 11) * (1.0 / (1 << 53))


def uniform_at(words: U64) -> F64:
    """Turn words into float64 in [0, 1) with 53 random bits each."""
    return (words >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def normal_at(words: U64) -> F64:
    """Turn words into nearly normal numbers: mean 0, variance 1, bounded by +-3.47.

    Decision: the sum of four uniforms replaces the exact normal, whose quantile needs functions
    that are not the same on every machine; sensor noise needs no far tail.
    """
    low = np.uint64(0xFFFF)
    total = (words & low) + (words >> np.uint64(16) & low)
    total += (words >> np.uint64(32) & low) + (words >> np.uint64(48))
    return (total.astype(np.float64) - _SUM_MEAN) * _SUM_INVERSE_STD
