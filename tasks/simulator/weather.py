"""The year's weather: an early or late spring, a dry or wet summer, rain, snow.

Everything here is common to the whole map on a given day; clouds, which have a shape, live in
``clouds.py``. Days are counted as ``datetime.date.toordinal`` so that a winter does not break at
New Year. Temperature does not appear: its effects (earlier growth, snow) are drawn directly.
"""

from dataclasses import dataclass
from datetime import date

from tasks.simulator.config import SimulatorConfig
from tasks.simulator.curves import summer_of
from tasks.simulator.randomness import Stream, mix, uniform

_RAIN_CHANCE = 0.42
_DRYING = 0.86  # share of the soil's extra water that is left after a day
_MEMORY_DAYS = 30
# (first possible day, days in which the spell may begin, chance)
_SNOW_SPELLS = ((4, 14, 0.8), (24, 16, 0.8), (46, 16, 0.6), (332, 12, 0.4), (348, 10, 0.5))


@dataclass(frozen=True, slots=True)
class YearWeather:
    """How a year departs from the average one."""

    spring_shift: float
    """Days by which growth is late (positive) or early, within +-10."""
    dryness: float
    """Summer drought, 0 none to 1 severe."""


def year_weather(config: SimulatorConfig, year: int) -> YearWeather:
    """Draw a year's spring and summer."""
    key = config.key(Stream.WEATHER, 0, year)
    return YearWeather(20.0 * uniform(mix(key, 0)) - 10.0, uniform(mix(key, 1)))


def soil_moisture(config: SimulatorConfig, day: date) -> float:
    """Return the wetness of open soil on a day, 0 dust-dry to 1 soaked.

    The sum of the last month's rains, each drying by a fixed share a day; faster in summer.
    """
    season = summer_of(day.timetuple().tm_yday)
    water, left = 0.0, 1.0
    for past in range(_MEMORY_DAYS):
        word = config.key(Stream.WEATHER, 1, day.toordinal() - past)
        if uniform(word) < _RAIN_CHANCE:
            water += left * uniform(mix(word, 1))
        left *= _DRYING - 0.06 * season
    return min(1.0, max(0.0, 0.3 * water + 0.08 - 0.08 * season))


def snow_depth(config: SimulatorConfig, day: date) -> float:
    """Return how far snow covers open ground, 0 none to 1.4 (deep enough to hide all of it)."""
    depth = 0.0
    doy = day.timetuple().tm_yday
    for number, (first, window, chance) in enumerate(_SNOW_SPELLS):
        key = config.key(Stream.SNOW, 0, day.year, number)
        start = first + int(window * uniform(mix(key, 0)))
        length = 4 + int(9 * uniform(mix(key, 1)))
        lies = start <= doy < start + length and uniform(mix(key, 2)) < chance
        if lies:
            # It falls at once and melts over the spell.
            depth = max(depth, 1.4 * (1.0 - (doy - start) / (length + 2.0)))
    return depth
