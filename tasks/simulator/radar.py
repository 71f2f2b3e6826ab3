"""What Sentinel-1 records: VV and VH in the archive's code (20 log10(power) + 50) x 200.

Bare ground answers to roughness and moisture; a canopy hides it and answers with the level of its
class (a standing cereal dims VV, broad leaves brighten VH). Levels differ a little between the
ascending and the descending look, most over towns, whose walls face one of them.

Decision: pixels are mixed in decibels, not in power, because that needs no logarithm; the error is
below the speckle. Codes are clipped to 1..32767, so 0 always and only means "no data".
"""

import numpy as np
import numpy.typing as npt

from tasks.simulator.classes import BUILT, WATER, lookup
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.ground import Ground
from tasks.simulator.orbits import Pass, in_swath
from tasks.simulator.phenology import canopy_on, ground_cover
from tasks.simulator.randomness import F64, I64, Stream, mix, mix_at, normal_at, uniform
from tasks.simulator.speckle import speckle_at
from tasks.simulator.weather import snow_depth, soil_moisture

NUM_POLARISATIONS = 2
_MOISTURE_CODE = 1400.0  # dust-dry to soaked: 3.5 dB of power
_SPECKLE_MEAN_CODE = 205.0


def observe_radar(
    config: SimulatorConfig, ground: Ground, overflight: Pass
) -> npt.NDArray[np.int16]:
    """Record one overflight as (H, W, 2) code values, VV then VH; 0 outside the swath."""
    orbit, x, y = overflight.orbit, ground.x, ground.y
    level = ground.blend(_parcel_levels(config, ground, overflight))
    level = level + (420.0 * ground.growth)[..., None]
    key = config.key(Stream.SPECKLE, orbit.number, overflight.day.toordinal())
    channel = np.arange(NUM_POLARISATIONS, dtype=np.int64)
    noise = speckle_at(mix_at(key, y[:, None, None], x[:, None], channel))
    code = np.floor(level + _SPECKLE_MEAN_CODE).astype(np.int64) + noise
    seen = in_swath(orbit, x, y) & ~ground.radar_blind
    return np.where(seen[..., None], np.clip(code, 1, 32767), 0).astype(np.int16)


def _parcel_levels(config: SimulatorConfig, ground: Ground, overflight: Pass) -> F64:
    """Return (P, 2) mean code of each parcel on a day from one side."""
    season, parcels = ground.season, ground.parcels
    canopy = canopy_on(season, float(overflight.doy))
    cover = ground_cover(canopy.leaf)
    cover = cover + 0.55 * canopy.dry * (1.0 - cover)
    wetness = soil_moisture(config, overflight.day) - 0.45
    is_water, is_town = season.codes == WATER, season.codes == BUILT
    damp = _MOISTURE_CODE * wetness * np.where(is_water | is_town, 0.1, 1.0 - 0.7 * cover)
    damp = damp - 350.0 * snow_depth(config, overflight.day) * ~is_water
    number = overflight.orbit.number
    pair = np.arange(NUM_POLARISATIONS, dtype=np.int64)
    row, column = parcels.row[:, None], parcels.column[:, None]
    lasting = normal_at(mix_at(config.key(Stream.RADAR_TRAIT, 0), row, column, pair))
    look = normal_at(mix_at(config.key(Stream.RADAR_TRAIT, number), row, column, pair))
    bare, full = _class_levels(season.codes)
    levels: F64 = bare + cover[:, None] * (full - bare) + damp[:, None] + 190.0 * lasting
    levels = levels + np.where(is_town, 450.0, 110.0)[:, None] * look
    wind = _water_ruffle(config, overflight)
    levels = levels + np.where(is_water, wind, 0.0)[:, None] * np.array([1.0, 0.4])
    return levels + _date_offset(config, overflight)


def _class_levels(codes: I64) -> tuple[F64, F64]:
    """Return (P, 2) codes of bare ground and of the full canopy."""
    bare = (lookup(lambda c: c.vv[0], codes), lookup(lambda c: c.vh[0], codes))
    full = (lookup(lambda c: c.vv[1], codes), lookup(lambda c: c.vh[1], codes))
    return np.stack(bare, axis=-1), np.stack(full, axis=-1)


def _date_offset(config: SimulatorConfig, overflight: Pass) -> F64:
    """Return (2,) code offsets common to a pass: calibration, and the steeper descending look."""
    key = config.key(Stream.RADAR_TRAIT, 50, overflight.orbit.number, overflight.day.toordinal())
    drift = normal_at(mix_at(key, np.arange(NUM_POLARISATIONS)))
    side = -45.0 if overflight.orbit.name == "s1-descending" else 45.0
    return np.array([side, 1.4 * side]) + 70.0 * drift


def _water_ruffle(config: SimulatorConfig, overflight: Pass) -> float:
    """Brightness of wind waves on a day, code units, mostly small and at times large."""
    gust = uniform(mix(config.key(Stream.WEATHER, 2, overflight.day.toordinal())))
    return 1800.0 * gust * gust - 500.0
