"""How plants grow on each parcel through a year.

A parcel-year has a calendar (green-up, ripening, harvest, mowing) around its class's typical one,
shifted by the spring, the soil and chance; ``canopy_on`` turns it into leaf area, dry cover and
petals on a day. Winter cover joins the years: what stands on 31 December is what the next year
starts with. Growth summed over the year times light gives ``biomass``, in the manner of Monteith.

It knows nothing about sensors; within-parcel texture is added where pixels are made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from tasks.simulator.classes import BROADLEAF, BUILT, CONIFER, NEVER, LandClass, lookup
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.curves import bump, rise, summer_of
from tasks.simulator.parcels import ParcelMap, land_use
from tasks.simulator.randomness import F64, I64, U64, Stream, mix, mix_at, normal_at, uniform_at
from tasks.simulator.weather import YearWeather, year_weather

_NUM_CUTS = 3
_LIGHT_STEP_DAYS = 5


@dataclass(frozen=True, slots=True)
class Season:
    """One year's calendar of P parcels; every array is (P,), days are days of year."""

    year: int
    codes: I64
    """0-based class positions."""
    vigour: F64
    """Growth relative to the class's typical one, about 0.5 to 1.5."""
    evergreen: F64
    peak: F64
    up: F64
    up_width: F64
    down: F64
    down_width: F64
    harvest: F64
    stubble: F64
    plough: F64
    """Day on which the stubble is turned under."""
    start_leaf: F64
    """Leaf area of winter crop or catch crop standing on 1 January."""
    start_end: F64
    """Day on which that is killed, or grown over by the crop itself."""
    autumn_leaf: F64
    """Leaf area of next year's winter or catch crop, sown this autumn."""
    autumn_day: F64
    cuts: tuple[F64, ...]
    """Mowing days, ``NEVER`` where not mown."""
    dryness: float


@dataclass(frozen=True, slots=True)
class Canopy:
    """What stands on P parcels on a day; every array is (P,)."""

    leaf: F64
    """Green leaf area, m2/m2."""
    dry: F64
    """Share of the ground between green leaves that is under dry plants or stubble, 0 to 1."""
    petals: F64
    """Flowering, 0 to 1."""


def grow(config: SimulatorConfig, parcels: ParcelMap, year: int) -> Season:
    """Draw a year's calendar for every parcel."""
    codes = land_use(config, parcels, year)
    weather = year_weather(config, year)
    normal = _Draws(config, parcels, year)
    vigour = np.clip(1.0 + 0.13 * normal.lasting(0) + 0.13 * normal(0), 0.45, 1.55)
    up = _of(codes, lambda c: c.up) + 0.9 * weather.spring_shift
    up = up + 6.0 * normal(1) + 3.0 * normal.lasting(1)
    # A dry summer ripens and burns early.
    down = _of(codes, lambda c: c.down) + 0.5 * weather.spring_shift - 10.0 * weather.dryness
    down = down + 5.0 + 6.0 * normal(2)
    ripening = np.clip(9.0 + 4.0 * normal(3), 2.0, 20.0)
    harvest = _of(codes, lambda c: c.harvest)
    harvest = np.where(harvest < NEVER, np.maximum(down + ripening + 6.0, harvest - 12.0), NEVER)
    start_leaf, start_day = _winter_cover(config, parcels, year)
    autumn_leaf, autumn_day = _winter_cover(config, parcels, year + 1)
    winter_crop = _of(codes, lambda c: c.autumn_leaf) > 0.0
    last_start = np.where(winter_crop, up + 5.0, np.minimum(up - 45.0, 108.0) + 7.0 * normal(4))
    other = guest_share(config, parcels, codes)
    evergreen = _with_guests(codes, other, lambda c: c.evergreen)
    peak = _with_guests(codes, other, lambda c: c.peak)
    # From a yard without a tree to a suburb that is mostly lawn.
    gardens = np.maximum(1.2 + 0.8 * normal.lasting(3), 0.0)
    return Season(
        year=year, codes=codes, vigour=vigour,
        evergreen=evergreen * np.where(codes == BUILT, gardens, 1.0 + 0.15 * normal.lasting(2)),
        peak=peak * np.where(codes == BUILT, gardens, vigour),
        up=up, up_width=_of(codes, lambda c: c.up_width) * (1.0 + 0.15 * normal(5)),
        down=down, down_width=_of(codes, lambda c: c.down_width) * (1.0 + 0.15 * normal(6)),
        harvest=harvest,
        stubble=np.clip(_of(codes, lambda c: c.stubble) * (1.0 + 0.4 * normal(7)), 0.0, 0.9),
        plough=harvest + np.clip(28.0 + 18.0 * normal(8), 3.0, 90.0),
        start_leaf=start_leaf, start_end=np.where(start_day < NEVER, last_start, 0.0),
        autumn_leaf=autumn_leaf, autumn_day=np.maximum(autumn_day, harvest + 18.0),
        cuts=_mowing(config, parcels, year, weather), dryness=weather.dryness,
    )  # fmt: skip


def canopy_on(season: Season, doy: float) -> Canopy:
    """Return what stands on every parcel on a day of the season's year.

    Args:
        season: Calendar from ``grow``.
        doy: Day of year, 1.0 to 366.99.
    """
    ripe = rise((doy - season.down) / season.down_width)
    standing = (doy < season.harvest).astype(np.float64)
    leaf = season.peak * rise((doy - season.up) / season.up_width) * (1.0 - ripe) * standing
    leaf = leaf + season.start_leaf * (1.0 - rise((doy - season.start_end) / 5.0))
    leaf = leaf + season.autumn_leaf * rise((doy - season.autumn_day) / 14.0)
    leaf = leaf + season.evergreen
    thirst = season.dryness * bump(np.array([(doy - 212.0) / 42.0]))
    is_meadow = _of(season.codes, lambda c: float(c.is_meadow)) > 0.0
    leaf = leaf * (1.0 - thirst * np.where(is_meadow, 0.6, 0.12))
    dry = 0.85 * ripe * standing
    fallow = (doy >= season.harvest) & (doy < season.plough)
    dry = np.where(fallow, season.stubble, dry) + 0.5 * thirst * is_meadow
    for cut in season.cuts:
        since = np.maximum(doy - cut, 0.0) / 13.0
        left = np.where(doy >= cut, 0.75 / (1.0 + since * since), 0.0)
        leaf, dry = leaf * (1.0 - left), dry + 0.6 * left
    flowering = bump((doy - season.up - 31.0) / 9.0)
    petals = _of(season.codes, lambda c: c.petals) * flowering
    return Canopy(leaf, np.minimum(dry, 0.95), petals)


def ground_cover(leaf: F64) -> F64:
    """Share of the ground hidden by green leaves, 0 to 1, for a leaf area in m2/m2."""
    return 1.0 - 1.0 / (1.0 + 0.6 * leaf + 0.35 * leaf * leaf)


def dry_matter(config: SimulatorConfig, parcels: ParcelMap, season: Season) -> F64:
    """Return (P,) dry matter grown above ground in the year, t/ha; NaN where nothing is grown.

    Intercepted light summed over the year, times the class's efficiency, times a fertility of
    the parcel that the sensors see only by the colour of its soil.

    Decision: yearly growth rather than standing mass, so that classes share one range and a model
    must read the season; standing mass of forests would be class alone.
    """
    total = np.zeros(season.codes.shape)
    start = date(season.year, 1, 1)
    for step in range(0, 365, _LIGHT_STEP_DAYS):
        doy = (start + timedelta(days=step)).timetuple().tm_yday
        light = (1.0 + 0.75 * summer_of(doy)) * _LIGHT_STEP_DAYS
        canopy = canopy_on(season, float(doy))
        total = total + light * ground_cover(canopy.leaf)
    # 100 to 300 is the range of light-weighted covered days; 210 is a typical forest or meadow.
    typical = _of(season.codes, lambda c: c.yield_t_ha)
    covered = np.where(season.harvest < NEVER, total / 185.0, total / 330.0)
    luck = 1.0 + 0.07 * normal_at(_words(config, parcels, season.year, 20))
    grown = typical * covered * luck * fertility(config, parcels) * (0.45 + 0.55 * season.vigour)
    return np.where(typical > 0.0, grown, np.nan)


def fertility(config: SimulatorConfig, parcels: ParcelMap) -> F64:
    """Return (P,) soil fertility about 1; dark soil is the fertile one."""
    return 1.0 + 0.1 * normal_at(_words(config, parcels, 0, 21))


def guest_share(config: SimulatorConfig, parcels: ParcelMap, codes: I64) -> F64:
    """Return (P,) share of trees of the other forest class in a stand, 0 to 0.45; 0 elsewhere."""
    chance = uniform_at(_words(config, parcels, 0, 22))
    is_forest = (codes == BROADLEAF) | (codes == CONIFER)
    return np.where(is_forest, np.maximum(0.75 * chance - 0.3, 0.0), 0.0)


def guest_of(codes: I64) -> I64:
    """Return (P,) classes of the guests: in a forest the other forest, else the class itself."""
    swapped = np.where(codes == BROADLEAF, CONIFER, codes)
    return np.where(codes == CONIFER, BROADLEAF, swapped)


class _Draws:
    """Normal numbers by trait: ``draws(n)`` new each year, ``draws.lasting(n)`` the same always."""

    def __init__(self, config: SimulatorConfig, parcels: ParcelMap, year: int) -> None:
        self._config, self._parcels, self._year = config, parcels, year

    def __call__(self, trait: int) -> F64:
        return normal_at(_words(self._config, self._parcels, self._year, trait))

    def lasting(self, trait: int) -> F64:
        return normal_at(_words(self._config, self._parcels, 0, 100 + trait))


def _words(config: SimulatorConfig, parcels: ParcelMap, year: int, trait: int) -> U64:
    return mix_at(config.key(Stream.SEASON, year, trait), parcels.row, parcels.column)


def _of(codes: I64, field: Callable[[LandClass], float]) -> F64:
    return lookup(field, codes)


def _with_guests(codes: I64, share: F64, field: Callable[[LandClass], float]) -> F64:
    own = _of(codes, field)
    return own + share * (_of(guest_of(codes), field) - own)


def _winter_cover(config: SimulatorConfig, parcels: ParcelMap, year: int) -> tuple[F64, F64]:
    """Return leaf area and day of establishment of what is sown the autumn before ``year``.

    Winter crops are sown before their year; before a summer crop every second field has a catch
    crop, mustard or grass, that is killed in spring.
    """
    codes = land_use(config, parcels, year)
    words = _words(config, parcels, year, 30)
    chance, size = uniform_at(words), uniform_at(mix_at(mix(1), words.view(np.int64)))
    leaf = _of(codes, lambda c: c.autumn_leaf) * (0.5 + size)
    day = _of(codes, lambda c: c.autumn_sowing) + 16.0 * (chance - 0.5)
    is_crop = _of(codes, lambda c: float(c.is_crop)) > 0.0
    catch = is_crop & (leaf == 0.0) & (chance < 0.5)
    leaf = np.where(catch, 0.7 + 1.8 * size, leaf)
    return leaf, np.where(catch, 265.0 + 30.0 * chance, day)


def _mowing(
    config: SimulatorConfig, parcels: ParcelMap, year: int, weather: YearWeather
) -> tuple[F64, ...]:
    """Draw mowing days: one to three cuts, pastures (one in four) none."""
    codes = land_use(config, parcels, year)
    habit = uniform_at(_words(config, parcels, 0, 40))
    is_mown = (_of(codes, lambda c: float(c.is_meadow)) > 0.0) & (habit > 0.25)
    cuts = []
    for number in range(_NUM_CUTS):
        usual = 142.0 + 47.0 * number + 0.6 * weather.spring_shift
        day = usual + 9.0 * normal_at(_words(config, parcels, year, 41 + number))
        happens = is_mown & (habit > 0.25 + 0.25 * number)
        cuts.append(np.where(happens, day, NEVER))
    return tuple(cuts)
