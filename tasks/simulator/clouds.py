"""Clouds, their shadows, and the cloud mask with its mistakes.

One endless frozen field of value noise, from 60 km down to 70 m, is blown over the map by a steady
wind: a place sees weather that lasts days, and one scene sees a piece that is mostly clear, mostly
covered, or broken. Opacity is how far the field exceeds a threshold, which is higher in summer. The
shadow is the same opacity, moved away from the sun by height times the tangent of its zenith angle.

The mask imitates a scene classification at 20 m: it misses thin edges, lets cirrus pass, and takes
some bright roofs, bare soil and snow for cloud.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.simulator.config import SimulatorConfig
from tasks.simulator.curves import sine_of_turns, summer_of, value_noise
from tasks.simulator.orbits import Pass
from tasks.simulator.randomness import F64, I64, Stream, mix, mix_at, uniform, uniform_at

_LATITUDE_DEG = 50.9
_WIND_PX_PER_DAY = (2300.0, 700.0)
_OCTAVES = ((6000.0, 0.44), (1300.0, 0.24), (260.0, 0.14), (64.0, 0.09), (22.0, 0.06), (7.0, 0.03))
_EDGE = 0.035  # excess over the threshold that hides half of the ground
# Quantiles of the field at 0, 10, ..., 100 percent, measured once over 40 worlds.
_FIELD_QUANTILES = (0.0, 0.35, 0.399, 0.436, 0.469, 0.5, 0.531, 0.564, 0.601, 0.65, 1.0)


@dataclass(frozen=True, slots=True)
class Sky:
    """What lies between a window and the satellite at one overflight; arrays are (H, W), 0 to 1."""

    opacity: F64
    """Share of light from cloud instead of the ground."""
    shadow: F64
    """Share of sunlight that clouds take from the ground."""
    cirrus: F64
    """Share of light from thin ice cloud, at most 0.3; part of ``opacity``."""
    brightness: F64
    """Reflectance of the cloud relative to a typical one, about 0.6 to 1.3."""


def sky_over(config: SimulatorConfig, overflight: Pass, x: I64, y: I64) -> Sky:
    """Compute clouds and shadows over a window.

    Args:
        config: World and cloud cover.
        overflight: Day; one morning overflight a day.
        x: (W,) map columns, pixels.
        y: (H,) map rows, pixels.
    """
    key = config.key(Stream.CLOUD, overflight.day.toordinal())
    east, south = x.astype(np.float64), y.astype(np.float64)
    height_px = 40.0 + 160.0 * uniform(mix(key, 1))
    reach = height_px * _sun_tangent(overflight.doy)
    thick = _thickness(config, overflight, east, south)
    # At half past ten the sun stands south-south-east: shadows fall to the north-north-west.
    shade = _thickness(config, overflight, east + 0.35 * reach, south + 0.94 * reach)
    cirrus = 0.3 * np.clip(4.0 * value_noise(mix(key, 2), east, south, 300.0) - 3.1, 0.0, 1.0)
    opacity = 1.0 - (1.0 - thick) * (1.0 - cirrus)
    brightness = 0.6 + 0.7 * value_noise(mix(key, 3), east, south, 35.0)
    return Sky(opacity, 0.72 * shade, cirrus, brightness)


def clear_mask(
    config: SimulatorConfig, overflight: Pass, sky: Sky, blue: F64, *, x: I64, y: I64
) -> npt.NDArray[np.bool_]:
    """Say which pixels a scene classification would call clear.

    Args:
        config: World.
        overflight: Day.
        sky: Truth from ``sky_over``.
        blue: (H, W) DN of the blue band of the ground, without cloud.
        x: (W,) map columns, even length.
        y: (H,) map rows, even length.

    Returns:
        (H, W) bool, True = called clear; constant on 20 m squares.
    """
    key = config.key(Stream.CLOUD_MASK, overflight.day.toordinal())
    east, south = x[::2].astype(np.float64), y[::2].astype(np.float64)
    chance = uniform_at(mix_at(key, y[::2, None] >> 1, x[None, ::2] >> 1))
    # The threshold drifts over some 150 m and hardly from square to square: edges stay smooth.
    doubt = value_noise(mix(key, 1), east, south, 15.0) + 0.15 * chance
    opacity, shadow = half(sky.opacity), half(sky.shadow)
    looks_cloudy = opacity > 0.05 + 0.2 * doubt
    looks_dark = shadow > 0.1 + 0.25 * doubt
    missed = (doubt > 0.84) & (opacity < 0.5)
    bright = np.clip((half(blue) - 1100.0) / 20000.0, 0.0, 0.12)
    false_alarm = chance > 0.997 - bright
    return repeat(~((looks_cloudy | looks_dark) & ~missed | false_alarm))


def half(values: F64) -> F64:
    """Average 2 x 2 pixels over the first two axes: (H, W, ...) to (H/2, W/2, ...)."""
    rows = values[::2] + values[1::2]
    return 0.25 * (rows[:, ::2] + rows[:, 1::2])


def repeat(values: np.ndarray) -> np.ndarray:
    """Repeat each element as a 2 x 2 square over the first two axes."""
    return np.repeat(np.repeat(values, 2, axis=0), 2, axis=1)


def _thickness(config: SimulatorConfig, overflight: Pass, x: F64, y: F64) -> F64:
    """Return (H, W) opacity of the water clouds over map positions."""
    days = overflight.day.toordinal() - 700000.0
    east, south = x - _WIND_PX_PER_DAY[0] * days, y - _WIND_PX_PER_DAY[1] * days
    field = np.zeros((y.size, x.size))
    for number, (wavelength, weight) in enumerate(_OCTAVES):
        noise = value_noise(config.key(Stream.CLOUD, 0, number), east, south, wavelength)
        field = field + weight * noise
    cover = config.cloud_cover * (1.0 - 0.2 * summer_of(overflight.doy))
    excess = np.maximum(field - _threshold(cover), 0.0) / _EDGE
    return excess * excess / (1.0 + excess * excess)


def _threshold(cover: float) -> float:
    """Return the field value that a share ``cover`` of the sky exceeds."""
    place = 10.0 * (1.0 - min(max(cover, 0.0), 1.0))
    below = min(int(place), 9)
    low, high = _FIELD_QUANTILES[below], _FIELD_QUANTILES[below + 1]
    return low + (high - low) * (place - below)


def _sun_tangent(doy: int) -> float:
    """Tangent of the sun's zenith angle at the morning overflight."""
    noon_zenith = _LATITUDE_DEG - 23.44 * sine_of_turns((doy - 80.0) / 365.25)
    zenith = noon_zenith + 4.0
    return sine_of_turns(zenith / 360.0) / sine_of_turns((zenith + 90.0) / 360.0)
