"""What Sentinel-2 records: ground, snow, shadow, cloud, haze and noise, as surface reflectance DN.

Each parcel has one spectrum a day, a mixture of ground, dry plants and green leaves; a pixel mixes
its parcels by area and departs from them by texture (patchy growth, soil and roofs). The 20 m bands
(B05 B06 B07 B8A B11 B12) are averages of 2 x 2 pixels, repeated. DN are without the +1000 offset
that processing baselines from 04.00 on add: a reader must not subtract it. DN 0 = not seen.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.simulator.classes import BUILT, CLOUD, PETALS, SNOW, WATER, lookup, spectra
from tasks.simulator.clouds import Sky, clear_mask, half, repeat, sky_over
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.curves import summer_of, value_noise
from tasks.simulator.ground import Ground
from tasks.simulator.orbits import Pass, in_swath
from tasks.simulator.phenology import (
    canopy_on,
    fertility,
    ground_cover,
    guest_of,
    guest_share,
)
from tasks.simulator.randomness import F64, I64, Stream, mix, mix_at, normal_at
from tasks.simulator.weather import snow_depth, soil_moisture

NUM_BANDS = 10
_FINE = np.array([0, 1, 2, 3])  # B04 B02 B03 B08 have 10 m
_COARSE = np.array([4, 5, 6, 7, 8, 9])
_VISIBLE = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0])
_INFRARED = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.7, 0.9, 0.0, 0.0])
_SHORTWAVE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 1.0, 1.0])
# What an imperfect atmospheric correction leaves, by band: most in the blue.
_HAZE = np.array([55.0, 120.0, 80.0, 25.0, 20.0, 45.0, 30.0, 25.0, 10.0, 8.0])
# Noise of one observation: DN, and a share of the signal.
_NOISE_DN, _NOISE_SHARE = 14.0, 0.012


@dataclass(frozen=True, slots=True)
class OpticalView:
    """One Sentinel-2 overflight of a window."""

    bands: npt.NDArray[np.uint16]
    """(H, W, 10) DN."""
    clear: npt.NDArray[np.bool_]
    """(H, W) True where the cloud mask calls the pixel clear."""
    sky: Sky
    """The truth that the mask tries to guess."""


def observe_optical(
    config: SimulatorConfig, ground: Ground, optics: F64, overflight: Pass
) -> OpticalView:
    """Record one overflight.

    Args:
        config: World.
        ground: Window and year.
        optics: Lasting spectra from ``parcel_spectra``.
        overflight: Day and orbit.
    """
    x, y = ground.x, ground.y
    surface = _with_snow(config, ground, overflight, _surface(config, ground, optics, overflight))
    sky = sky_over(config, overflight, x, y)
    lit = surface * (1.0 - sky.shadow)[..., None]
    veil = sky.opacity[..., None]
    cloud = np.array(CLOUD) * sky.brightness[..., None]
    seen = lit + veil * (cloud - lit)
    swath = in_swath(overflight.orbit, x, y)
    bands = np.where(swath[..., None], _digitise(config, overflight, seen, x, y), np.uint16(0))
    clear = clear_mask(config, overflight, sky, surface[..., 1], x=x, y=y)
    return OpticalView(bands, clear & swath & ~ground.optically_blind, sky)


def parcel_spectra(config: SimulatorConfig, ground: Ground) -> F64:
    """Return (3, P, 10) DN of each parcel's ground, dry plants and green leaves.

    They are the class's, changed by lasting traits of the parcel: soil colour with fertility, and
    separate tints in the visible, near and short-wave infrared.
    """
    codes, parcels = ground.season.codes, ground.parcels
    tints = np.ones((codes.size, NUM_BANDS))
    groups = ((_VISIBLE, 0.12), (_INFRARED, 0.09), (_SHORTWAVE, 0.11))
    for number, (group, strength) in enumerate(groups):
        words = mix_at(config.key(Stream.PARCEL_TRAIT, number), parcels.row, parcels.column)
        tints = tints + strength * normal_at(words)[:, None] * group
    soil = 1.0 - 1.1 * (fertility(config, parcels) - 1.0)
    words = mix_at(config.key(Stream.PARCEL_TRAIT, 9), parcels.row, parcels.column)
    spread = np.where((codes == BUILT) | (codes == WATER), 0.22, 0.1)
    soil = np.maximum(soil + spread * normal_at(words), 0.4)
    below = spectra(lambda c: c.ground, codes) * soil[:, None]
    green, guests = spectra(lambda c: c.green, codes), spectra(lambda c: c.green, guest_of(codes))
    green = green + guest_share(config, parcels, codes)[:, None] * (guests - green)
    return np.stack((below, spectra(lambda c: c.dry, codes), green)) * tints


def _surface(config: SimulatorConfig, ground: Ground, optics: F64, overflight: Pass) -> F64:
    """Return (H, W, 10) DN of the snow-free ground under a clear sky."""
    season = ground.season
    canopy = canopy_on(season, float(overflight.doy))
    wetness = soil_moisture(config, overflight.day)
    is_water = season.codes == WATER
    below = optics[0] * np.where(is_water, 1.0, 1.0 - 0.38 * wetness)[:, None]
    under = below + canopy.dry[:, None] * (optics[1] * (1.0 - 0.15 * wetness) - below)
    # A thin canopy is duller in the infrared and lets light through in the visible and short-wave.
    density = (canopy.leaf / (canopy.leaf + 2.0))[:, None]
    green = optics[2] * (1.22 - 0.31 * density + _INFRARED * (0.73 * density - 0.52))
    cover = ground_cover(canopy.leaf)[:, None]
    typical = under + cover * (green - under) + canopy.petals[:, None] * np.array(PETALS)
    # Texture moves a pixel along the line from ground to leaves, and dims or brightens it.
    swing = cover * (1.0 - 0.75 * cover) * (green - under)
    illumination = 0.95 + 0.05 * summer_of(overflight.doy)
    pixel = ground.blend(typical) + ground.growth[..., None] * ground.blend(swing)
    return pixel * (ground.albedo * illumination)[..., None]


def _with_snow(config: SimulatorConfig, ground: Ground, overflight: Pass, surface: F64) -> F64:
    """Lay snow on a (H, W, 10) surface; less is seen in forests and towns, none on water."""
    depth = snow_depth(config, overflight.day)
    if depth == 0.0:
        return surface
    key = config.key(Stream.SNOW, 1, overflight.day.toordinal())
    x, y = ground.x.astype(np.float64), ground.y.astype(np.float64)
    drift = 0.65 + 0.7 * value_noise(key, x, y, 12.0)
    hold = ground.blend(lookup(lambda c: c.snow_share, ground.season.codes)[:, None])
    share = np.clip(depth * drift, 0.0, 0.97)[..., None] * hold
    return surface + share * (np.array(SNOW) - surface)


def _digitise(
    config: SimulatorConfig, overflight: Pass, seen: F64, x: I64, y: I64
) -> npt.NDArray[np.uint16]:
    """Add haze, gain error and noise, average the 20 m bands, and round to (H, W, 10) DN >= 1."""
    key = config.key(Stream.OPTICAL_NOISE, overflight.orbit.number, overflight.day.toordinal())
    band = np.arange(NUM_BANDS, dtype=np.int64)
    date_noise = normal_at(mix_at(key, np.array([[0], [1]]), band))
    haze = _HAZE * (0.35 * normal_at(mix_at(mix(key, 2), np.array([0])))) + 6.0 * date_noise[0]
    gain = 1.0 + 0.018 * date_noise[1]
    exact = seen * gain + haze
    bands = np.empty(seen.shape, dtype=np.uint16)
    fine, coarse = exact[..., _FINE], half(exact[..., _COARSE])
    fine_noise = normal_at(mix_at(mix(key, 3), y[:, None, None], x[:, None], _FINE))
    coarse_noise = normal_at(mix_at(mix(key, 4), y[::2, None, None], x[::2, None], _COARSE))
    bands[..., _FINE] = _rounded(fine + fine_noise * (_NOISE_DN + _NOISE_SHARE * fine))
    coarse = coarse + coarse_noise * (_NOISE_DN + _NOISE_SHARE * coarse)
    bands[..., _COARSE] = repeat(_rounded(coarse))
    return bands


def _rounded(values: F64) -> npt.NDArray[np.uint16]:
    """Round to DN; at least 1, because 0 is reserved for "not seen"."""
    return np.floor(np.clip(values, 1.0, 20000.0) + 0.5).astype(np.uint16)
