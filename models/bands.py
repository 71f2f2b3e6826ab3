"""Band orders and normalisation statistics: the only place where they are written down.

The one idea: a model is meaningless without the order of its input bands and the statistics that
scaled them, so both have a name here, and the statistics have a digest that travels with every
checkpoint and every product. The Sentinel-2 order is NOT by wavelength; a wrong order gives no
error in any network, only wrong embeddings, which is why readers refuse every other order.

It deliberately computes no statistics and reads no files.

Axis words: `item` any number of observations, `band` the order of `S2_BANDS` or `S1_BANDS`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Shaped

S2_BANDS = ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12")
"""Sentinel-2 L2A bands in input order: red, blue, green, nir, narrow nir, red edges, swir."""

S1_BANDS = ("VV", "VH")
"""Sentinel-1 polarisations in input order."""

STD_FLOOR = 1e-9
"""Added to every standard deviation, as in the released inference code."""


@dataclass(frozen=True)
class Normalisation:
    """A named set of statistics: z = (x - mean) / (std + 1e-9), on raw stored numbers.

    Decision: the pooled Sentinel-1 statistics of the teacher are written as equal ascending and
    descending statistics, because scaling each orbit by the same numbers and then joining them is
    the same as joining first and scaling once; so one code path serves both.

    Raises:
        ValueError: for a wrong number of bands, a number that is not finite, or a standard
            deviation that is not positive.
    """

    name: str
    """Name under which checkpoints and products refer to the set."""
    s2_mean: tuple[float, ...]
    """Mean digital number of each band of `S2_BANDS`."""
    s2_std: tuple[float, ...]
    """Standard deviation of each band of `S2_BANDS`."""
    s1_asc_mean: tuple[float, ...]
    """Mean coded decibel of VV and VH on ascending passes."""
    s1_asc_std: tuple[float, ...]
    """Standard deviation of VV and VH on ascending passes."""
    s1_desc_mean: tuple[float, ...]
    """Mean coded decibel of VV and VH on descending passes."""
    s1_desc_std: tuple[float, ...]
    """Standard deviation of VV and VH on descending passes."""
    source: str = ""
    """Archive that the statistics hold for, e.g. ``mpc``; empty: any."""

    def __post_init__(self) -> None:
        for field, numbers in self.numbers().items():
            expected = len(S2_BANDS) if field.startswith("s2") else len(S1_BANDS)
            if len(numbers) != expected:
                raise ValueError(f"{self.name}.{field}: expected {expected} numbers, got {numbers}")
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError(f"{self.name}.{field}: expected finite numbers, got {numbers}")
            if field.endswith("std") and min(numbers) <= 0:
                raise ValueError(f"{self.name}.{field}: expected positive numbers, got {numbers}")

    def numbers(self) -> dict[str, tuple[float, ...]]:
        """Return the six tuples of statistics by field name."""
        given = asdict(self).items()
        return {field: tuple(value) for field, value in given if field not in ("name", "source")}

    @property
    def digest(self) -> str:
        """Hex sha256 over the numbers as canonical JSON; name and source do not enter.

        Two sets of equal numbers have equal digests whatever they are called, and a set whose
        numbers were changed under an old name is found out.
        """
        canonical = json.dumps(self.numbers(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


_S2_MEAN = (
    *(1633.0042, 1341.1090, 1539.5536, 3054.8269, 3117.4658),
    *(2004.1648, 2694.7275, 2945.1504, 2266.6079, 1657.3094),
)
_S2_STD = (
    *(1999.4603, 2014.7549, 1929.2201, 1754.2493, 1649.9807),
    *(1936.8988, 1748.6041, 1708.6991, 1207.5250, 1108.6046),
)

_SETS = (
    Normalisation(
        name="tessera-v2-student",
        s2_mean=_S2_MEAN,
        s2_std=_S2_STD,
        s1_asc_mean=(5909.3921, 3405.0322),
        s1_asc_std=(1507.1750, 1531.2615),
        s1_desc_mean=(5816.1382, 3277.7576),
        s1_desc_std=(1554.6475, 1546.4733),
    ),
    Normalisation(
        name="tessera-v2-teacher",
        s2_mean=_S2_MEAN,
        s2_std=_S2_STD,
        s1_asc_mean=(5862.7652, 3341.3949),
        s1_asc_std=(1531.8051, 1540.2014),
        s1_desc_mean=(5862.7652, 3341.3949),
        s1_desc_std=(1531.8051, 1540.2014),
    ),
    Normalisation(
        name="tessera-v1.0",
        s2_mean=(
            *(1711.0938, 1308.8511, 1546.4543, 3010.1293, 3106.5083),
            *(2068.3044, 2685.0845, 2931.5889, 2514.6928, 1899.4922),
        ),
        s2_std=(
            *(1926.1026, 1862.9751, 1803.1792, 1741.7837, 1677.4543),
            *(1888.7862, 1736.3090, 1715.8104, 1514.5199, 1398.4779),
        ),
        s1_asc_mean=(5484.0407, 3003.7812),
        s1_asc_std=(1871.2334, 1726.0670),
        s1_desc_mean=(5484.0407, 3003.7812),
        s1_desc_std=(1871.2334, 1726.0670),
    ),
    Normalisation(
        name="tessera-v1.1-mpc",
        s2_mean=(
            *(2683.4553, 2223.3630, 2432.0950, 3633.1970, 3602.1755),
            *(3006.4324, 3400.2710, 3515.6392, 2456.9163, 1983.8783),
        ),
        s2_std=(
            *(2739.5217, 2846.2993, 2690.8250, 2290.0439, 2088.8970),
            *(2673.1106, 2381.4521, 2229.5225, 1601.0942, 1495.3545),
        ),
        s1_asc_mean=(5588.3291, 3025.6270),
        s1_asc_std=(1713.4646, 1693.0471),
        s1_desc_mean=(5552.9683, 2955.0520),
        s1_desc_std=(1685.5857, 1677.6414),
        source="mpc",
    ),
    Normalisation(
        name="tessera-v1.1-aws",
        s2_mean=(
            *(2793.6589, 2356.7776, 2551.0496, 3741.9229, 3713.7844),
            *(3120.1997, 3516.3342, 3637.0342, 2501.0283, 2038.1504),
        ),
        s2_std=(
            *(2810.0093, 2933.8835, 2755.6360, 2344.5027, 2145.7986),
            *(2743.9019, 2438.8601, 2286.5977, 1680.7367, 1585.5529),
        ),
        s1_asc_mean=(5697.0859, 2838.6687),
        s1_asc_std=(1671.3737, 1789.4116),
        s1_desc_mean=(5759.1367, 2873.2854),
        s1_desc_std=(1583.2858, 1747.8390),
        source="aws",
    ),
)

NORMALISATIONS: dict[str, Normalisation] = {given.name: given for given in _SETS}
"""The published statistics by name; a set computed anew gets a name of its own.

Those of v1.1 differ with the archive that the pixels come from, and are not interchangeable.
"""


def normalise(
    values: Shaped[np.ndarray, "item band"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[np.ndarray, "item band"]:
    """Scale raw numbers by z = (x - mean) / (std + 1e-9), in float32.

    Args:
        values: raw digital numbers (Sentinel-2) or coded decibels (Sentinel-1).
        mean: one number a band.
        std: one number a band.

    Returns:
        Float32 z-scores of the same shape.

    Raises:
        ValueError: if the last axis does not have one entry for each statistic.
    """
    if values.shape[-1] != len(mean) or len(mean) != len(std):
        raise ValueError(f"expected {len(mean)} bands, got values of shape {values.shape}")
    scale = (np.asarray(std) + STD_FLOOR).astype(np.float32)
    return (values.astype(np.float32) - np.asarray(mean, dtype=np.float32)) / scale
