"""Band orders and normalisation statistics: the only place where they are written down.

The one idea: a model is meaningless without the order of its input bands and the statistics that
scaled them, so both have a name here, and the statistics have a digest that travels with every
checkpoint and every product. The Sentinel-2 order is NOT by wavelength; a wrong order gives no
error in any network, only wrong embeddings, which is why readers refuse every other order.

It deliberately computes no statistics and reads no files.

Axis words: `item` any number of observations, `band` the order of `S2_BANDS` or `S1_BANDS`.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass

import numpy as np
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
        return {field: tuple(value) for field, value in asdict(self).items() if field != "name"}

    @property
    def digest(self) -> str:
        """Hex sha256 over the numbers as canonical JSON; the name does not enter.

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

NORMALISATIONS: dict[str, Normalisation] = {
    "tessera-v2-student": Normalisation(
        name="tessera-v2-student",
        s2_mean=_S2_MEAN,
        s2_std=_S2_STD,
        s1_asc_mean=(5909.3921, 3405.0322),
        s1_asc_std=(1507.1750, 1531.2615),
        s1_desc_mean=(5816.1382, 3277.7576),
        s1_desc_std=(1554.6475, 1546.4733),
    ),
    "tessera-v2-teacher": Normalisation(
        name="tessera-v2-teacher",
        s2_mean=_S2_MEAN,
        s2_std=_S2_STD,
        s1_asc_mean=(5862.7652, 3341.3949),
        s1_asc_std=(1531.8051, 1540.2014),
        s1_desc_mean=(5862.7652, 3341.3949),
        s1_desc_std=(1531.8051, 1540.2014),
    ),
}
"""The statistics of the released TESSERA v2 models, by name."""


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
