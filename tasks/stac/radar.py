"""One date of Sentinel-1 of one orbit direction: scenes to one layer of coded backscatter.

The one idea: the code is that of the released data, bit for bit, since published statistics and
weights hold for nothing else. It takes 20 log10 of what is a power, so it counts twice the decibels.
Ascending and descending passes see a slope from two sides; they are other dates, never one.

Where no scene has data the code is 0, which means that there is none.
"""

import numpy as np
import numpy.typing as npt

from models.bands import S1_BANDS
from tasks.errors import ParamsError
from tasks.stac.captures import Array, Receipt, Target, describe_item, readable
from tasks.stac.days import Day
from tasks.stac.items import Scene
from tasks.stac.providers import Provider
from tasks.stac.reading import Access, Layer, read_layers

SCALES = {"tessera": 20, "db10": 10}
"""Factor of log10 by name: that of the released data, and that of decibels of a power."""

CODES = "codes"
"""Name of the only layer of a date."""

_SHIFT, _PER_DECIBEL, _HIGHEST = 50, 200, 32767


def factor_of(scale: str) -> int:
    """Return the factor of a scale by name.

    Raises:
        ParamsError: There is no such scale.
    """
    if scale not in SCALES:
        raise ParamsError(
            f"one of {', '.join(SCALES)}",
            found=scale,
            where="--s1-scale",
            mend="Choose tessera, unless a model of your own was trained on db10.",
        )
    return SCALES[scale]


def encode(
    power: npt.NDArray[np.float32], factor: int = SCALES["tessera"]
) -> npt.NDArray[np.int16]:
    """Return int16((factor log10(v) + 50) x 200), cut to whole numbers and to 0..32767.

    Args:
        power: Linear backscatter, as the archive has it.
        factor: Of ``SCALES``.

    Returns:
        Codes of the same shape; 0 where ``power`` is not a finite number above 0.

    Decision: in float32 throughout, as the archive's rasters make it in the released code. In
    float64 about one code in two thousand would be another by 1.
    """
    is_seen = np.isfinite(power) & (power > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        code = (factor * np.log10(power) + _SHIFT) * _PER_DECIBEL
    return np.where(is_seen, np.clip(code, 0, _HIGHEST), 0).astype(np.int16)


def read_radar_day(
    day: Day, provider: Provider, target: Target, access: Access, factor: int
) -> tuple[dict[str, Array], Receipt]:
    """Read a date.

    Args:
        day: Its scenes, all of one orbit direction.
        provider: How they are stored.
        target: The pixels that are wanted.
        access: How rasters are reached.
        factor: Of ``SCALES``.

    Returns:
        ``codes`` int16 (n, 2), VV and VH; and how the date came about.
    """
    receipt = Receipt(day.day.isoformat())
    codes = np.zeros((target.size, len(S1_BANDS)), np.int16)
    both = codes.view(np.uint32)[:, 0]  # VV and VH as one number: 0 where both are
    for copies in day.captures:
        for capture, account in readable(
            copies, lambda scene: _read_scene(scene, provider, target, access), receipt
        ):
            free = both == 0 if receipt.items else slice(None)
            for index, power in enumerate(capture):
                codes[free, index] = encode(power, factor)[free]
            receipt.items.append(account)
        if both.all():
            break
    seen = both != 0
    receipt.has_data = bool(seen.any())
    receipt.clear_px = int(np.count_nonzero(seen[target.region]))
    return {CODES: codes}, receipt


def _read_scene(
    scene: Scene, provider: Provider, target: Target, access: Access
) -> tuple[list[Array], dict[str, object]]:
    form = provider.radar_form(scene)
    layers = {band: Layer(scene.href(form.keys[band]), "float32", form.nodata) for band in S1_BANDS}
    pixels = read_layers(layers, target.window, access)
    account = describe_item(scene, layers, pixels) | {
        "orbit": str(scene.properties[form.orbit_property]).lower()
    }
    return [target.take(pixels[band]) for band in S1_BANDS], account
