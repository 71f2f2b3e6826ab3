"""Hold codes and scales against what an embedding of this family can be, before they are written."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from models.quantize import LARGEST_CODE
from tasks.embedding.blocks import Embedded
from tasks.errors import DataError

_SCALE_SLACK = 1e-4  # LayerNorm's epsilon and float32 let the bounds be missed by this share


def check_codes(
    codes: npt.NDArray[np.int8],
    scales: npt.NDArray[np.float32],
    block: Embedded,
    place: Callable[[int], str],
) -> None:
    """Refuse a block that cannot come from a LayerNorm-ed embedding coded with its own scale.

    With mean 0 and variance 1 over d coordinates the peak lies between 1 and sqrt(d - 1), hence
    the scale between 1/127 and sqrt(d)/127. Source: tile format of the published v2 product.

    Args:
        codes: int8 (n, d), full length.
        scales: (n,), NaN where there is no embedding.
        block: What they were made from.
        place: Says where a row of the source is.

    Raises:
        DataError: Naming the first pixel that breaks a rule.
    """
    valid = ~np.isnan(scales)
    peak = np.abs(codes.astype(np.int16)).max(axis=-1)
    low, high = 1 / LARGEST_CODE, math.sqrt(codes.shape[-1]) / LARGEST_CODE
    inside = (scales >= low * (1 - _SCALE_SLACK)) & (scales <= high * (1 + _SCALE_SLACK))
    rules = {
        f"a scale in [{low:.5f}, {high:.5f}]": valid & ~inside,
        f"a largest code of {LARGEST_CODE}": valid & (peak != LARGEST_CODE),
        "codes of 0 where there is no embedding": ~valid & (peak != 0),
        "observations where there is an embedding": valid != block.observations.any(axis=-1),
    }
    for expected, broken in rules.items():
        if broken.any():
            at = int(np.flatnonzero(broken)[0])
            raise DataError(
                expected,
                found=f"scale {scales[at]}, peak {peak[at]}, "
                f"observations {block.observations[at].tolist()}; {int(broken.sum())} such pixels",
                where=place(int(block.rows[at])),
                mend="The model's embedding is not normalised: it is not one of this family.",
            )
