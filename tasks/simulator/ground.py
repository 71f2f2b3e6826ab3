"""A window of the map in one year: its parcels, their season, and the texture of its pixels.

Everything that holds for all overflights of a window is computed once here; the sensors only read
it. ``blend`` turns numbers per parcel into numbers per pixel by area shares.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.simulator.classes import BUILT, WATER
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.curves import value_noise
from tasks.simulator.parcels import NUM_SHARES, ParcelMap, map_parcels
from tasks.simulator.phenology import Season, grow
from tasks.simulator.randomness import F64, I64, Stream, mix_at, normal_at, uniform_at

_BLIND_SHARE = 1 / 160


@dataclass(frozen=True, slots=True)
class Ground:
    """Window and year; (H, W) arrays unless said otherwise."""

    x: I64
    """(W,) map columns, pixels."""
    y: I64
    """(H,) map rows, pixels."""
    parcels: ParcelMap
    season: Season
    growth: F64
    """Within-field growth relative to the field's, about -0.6 to 0.6."""
    albedo: F64
    """Brightness relative to the field's, about 1."""
    optically_blind: npt.NDArray[np.bool_]
    """20 m squares that the cloud mask never calls clear: no optical observation at all."""
    radar_blind: npt.NDArray[np.bool_]
    """20 m squares in radar shadow from both sides: no radar observation at all."""

    def blend(self, values: F64) -> F64:
        """Mix values per parcel (P, C) by area into values per pixel (H, W, C)."""
        member, share = self.parcels.member, self.parcels.share[..., None]
        mixed = values[member[..., 0]] * share[..., 0, :]
        for rank in range(1, NUM_SHARES):
            mixed = mixed + values[member[..., rank]] * share[..., rank, :]
        return mixed


def survey(config: SimulatorConfig, x: I64, y: I64, year: int) -> Ground:
    """Compute what stays the same over a year.

    Args:
        config: World.
        x: (W,) map columns, pixels, consecutive, starting even.
        y: (H,) map rows, likewise.
        year: Calendar year.
    """
    parcels = map_parcels(config, x, y)
    season = grow(config, parcels, year)
    east, south = x.astype(np.float64), y.astype(np.float64)
    patches = _patches(config, east, south, 0)
    grain = normal_at(mix_at(config.key(Stream.TEXTURE, 9), y[:, None], x[None, :]))
    growth = 0.75 * patches + 0.06 * grain
    owner = season.codes[parcels.member[..., 0]]
    # Roofs, yards and gardens differ from pixel to pixel; open water hardly does.
    rough = np.where(owner == BUILT, 0.2, np.where(owner == WATER, 0.03, 0.035))
    albedo = 1.0 + 0.12 * _patches(config, east, south, 3) + rough * grain
    blind = uniform_at(mix_at(config.key(Stream.BLIND), y[:, None] >> 1, x[None, :] >> 1))
    return Ground(
        x, y, parcels, season, growth, np.maximum(albedo, 0.4),
        blind < _BLIND_SHARE, blind >= 1.0 - _BLIND_SHARE,
    )  # fmt: skip


def _patches(config: SimulatorConfig, x: F64, y: F64, number: int) -> F64:
    """Return smooth variation about 0, within +-0.75, of 60 m and 25 m size."""
    large = value_noise(config.key(Stream.TEXTURE, number), x, y, 6.0)
    small = value_noise(config.key(Stream.TEXTURE, number + 1), x, y, 2.5)
    return large - 0.5 + 0.5 * (small - 0.5)
