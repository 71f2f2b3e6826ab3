"""When each satellite passes and which part of the map it sees.

Sentinel-2A and 2B together return every five days on one relative orbit; where the swaths of two
neighbouring orbits overlap the dates double. Sentinel-1A and 1B return every six days together and
every twelve after 1B failed on 2021-12-23. A few passes are missing from every real archive.

Decision: swaths repeat every 2 km here, not every 290 km or 250 km, so that a small sample holds
all cases: both optical orbits, either alone, and a strip without a descending radar pass.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt

from tasks.simulator.config import SimulatorConfig
from tasks.simulator.randomness import I64, Stream, uniform

SENTINEL_1B_LOSS = date(2021, 12, 23)
_MISSING_SHARE = 0.04


@dataclass(frozen=True, slots=True)
class Orbit:
    """One relative orbit of one mission and its strip of the map."""

    name: str
    number: int
    """Key of the orbit's random numbers; never changes."""
    cycle_days: int
    """Days between passes of the two satellites together."""
    phase: int
    """Remainder of a pass day's ordinal by the cycle."""
    period_px: float
    """Distance after which the swath pattern repeats."""
    seen_px: tuple[tuple[float, float], ...]
    """Ranges of the period that the swath covers."""
    is_radar: bool = False


OPTICAL = (
    Orbit("s2-east", 1, 5, 2, 200.0, ((0.0, 120.0),)),
    Orbit("s2-west", 2, 5, 4, 200.0, ((80.0, 200.0), (0.0, 30.0))),
)
ASCENDING = Orbit("s1-ascending", 3, 6, 1, 200.0, ((0.0, 200.0),), is_radar=True)
DESCENDING = Orbit("s1-descending", 4, 6, 4, 200.0, ((0.0, 104.0), (134.0, 200.0)), is_radar=True)


@dataclass(frozen=True, slots=True)
class Pass:
    """One overflight."""

    orbit: Orbit
    day: date

    @property
    def doy(self) -> int:
        """Day of year, 1 to 366."""
        return self.day.timetuple().tm_yday


def passes(config: SimulatorConfig, orbits: tuple[Orbit, ...], year: int) -> list[Pass]:
    """List the overflights of a year in order of time, without those missing from the archive."""
    day, found = date(year, 1, 1), []
    while day.year == year:
        found += [Pass(orbit, day) for orbit in orbits if _is_flown(config, orbit, day)]
        day += timedelta(days=1)
    return found


def in_swath(orbit: Orbit, x: I64, y: I64) -> npt.NDArray[np.bool_]:
    """Return (H, W) whether an orbit sees each pixel; swath edges lean one in ten.

    Args:
        orbit: The relative orbit.
        x: (W,) map columns, pixels.
        y: (H,) map rows, pixels.
    """
    position = x[None, :] - 0.1 * y[:, None]
    position = position - np.floor(position / orbit.period_px) * orbit.period_px
    seen = np.zeros(position.shape, dtype=np.bool_)
    for first, end in orbit.seen_px:
        seen |= (position >= first) & (position < end)
    return seen


def _is_flown(config: SimulatorConfig, orbit: Orbit, day: date) -> bool:
    ordinal = day.toordinal()
    if ordinal % orbit.cycle_days != orbit.phase:
        return False
    by_second_satellite = ordinal // orbit.cycle_days % 2 == 1
    if orbit.is_radar and by_second_satellite and day >= SENTINEL_1B_LOSS:
        return False
    return uniform(config.key(Stream.ACQUISITION, orbit.number, ordinal)) >= _MISSING_SHARE
