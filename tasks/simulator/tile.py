"""One tile of one year, in memory: the arrays of a tile folder, and the truth behind them.

``simulate_tile`` is the simulator's front door: it depends on nothing but its arguments, so any
tile of any year can be made alone, in any process, and equals the one in a written archive.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.simulator.classes import lookup
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.ground import Ground, survey
from tasks.simulator.optical import NUM_BANDS, observe_optical, parcel_spectra
from tasks.simulator.orbits import ASCENDING, DESCENDING, OPTICAL, Orbit, Pass, in_swath, passes
from tasks.simulator.phenology import dry_matter
from tasks.simulator.radar import NUM_POLARISATIONS, observe_radar

_PURE = 0.6  # share of a pixel that its largest parcel must hold for a class label

U16 = npt.NDArray[np.uint16]
I16 = npt.NDArray[np.int16]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SimulatedTile:
    """Observations in the public d-pixel layout, and labels on the same grid."""

    name: str
    """``<xmin>_<ymin>_<xmax>_<ymax>``, map pixels."""
    year: int
    bands: U16
    """(T, H, W, 10) DN in S2 band order, 0 outside the swath."""
    masks: npt.NDArray[np.uint8]
    """(T, H, W) 1 = clear."""
    doys: U16
    """(T,) day of year, ascending."""
    sar_ascending: I16
    """(Ta, H, W, 2) code of VV and VH, 0 = no data."""
    sar_ascending_doy: I16
    """(Ta,) day of year."""
    sar_descending: I16
    """(Td, H, W, 2)."""
    sar_descending_doy: I16
    """(Td,)."""
    land_cover: U16
    """(H, W) class code, 1 to 10; 0 where no parcel holds 60 % of the pixel."""
    parcel: U16
    """(H, W) group number of the largest parcel, 1 to 65535: split by it."""
    biomass: F32
    """(H, W) dry matter grown above ground in the year, t/ha; NaN = no label."""
    green_up: F32
    """(H, W) day of year when half of the season's leaf area stands; NaN = no label."""

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays of a tile folder by file stem."""
        return {name: getattr(self, name) for name in ARRAYS}

    def labels(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the label rasters by name."""
        return {name: getattr(self, name) for name in LABELS}


ARRAYS = (
    "bands", "masks", "doys", "sar_ascending", "sar_ascending_doy", "sar_descending",
    "sar_descending_doy",
)  # fmt: skip
LABELS = ("land_cover", "parcel", "biomass", "green_up")


def simulate_tile(config: SimulatorConfig, tile_index: int, year: int) -> SimulatedTile:
    """Make one tile of one year.

    Args:
        config: World and window.
        tile_index: 0 to ``config.num_tiles - 1``.
        year: Any year that a configuration may name.

    Raises:
        ValueError: if the index is outside the configuration's tiles.
    """
    left, top = config.origin(tile_index)
    x = np.arange(left, left + config.tile_size_px, dtype=np.int64)
    y = np.arange(top, top + config.tile_size_px, dtype=np.int64)
    ground = survey(config, x, y, year)
    bands, masks, doys = _optical_series(config, ground)
    ascending, ascending_doy = _radar_series(config, ground, ASCENDING)
    descending, descending_doy = _radar_series(config, ground, DESCENDING)
    land_cover, parcel, biomass, green_up = _truth(config, ground)
    return SimulatedTile(
        name=f"{left}_{top}_{left + x.size}_{top + y.size}", year=year,
        bands=bands, masks=masks, doys=doys,
        sar_ascending=ascending, sar_ascending_doy=ascending_doy,
        sar_descending=descending, sar_descending_doy=descending_doy,
        land_cover=land_cover, parcel=parcel, biomass=biomass, green_up=green_up,
    )  # fmt: skip


def _visits(config: SimulatorConfig, ground: Ground, orbits: tuple[Orbit, ...]) -> list[Pass]:
    """List the passes whose swath touches the window."""
    flown = passes(config, orbits, ground.season.year)
    touching = {orbit.name for orbit in orbits if in_swath(orbit, ground.x, ground.y).any()}
    return [overflight for overflight in flown if overflight.orbit.name in touching]


def _optical_series(
    config: SimulatorConfig, ground: Ground
) -> tuple[U16, npt.NDArray[np.uint8], U16]:
    """Record a year of Sentinel-2: bands, masks and days."""
    visits = _visits(config, ground, OPTICAL)
    shape = (len(visits), ground.y.size, ground.x.size)
    bands = np.zeros((*shape, NUM_BANDS), dtype=np.uint16)
    masks = np.zeros(shape, dtype=np.uint8)
    optics = parcel_spectra(config, ground)
    for number, overflight in enumerate(visits):
        view = observe_optical(config, ground, optics, overflight)
        bands[number], masks[number] = view.bands, view.clear
    return bands, masks, np.array([visit.doy for visit in visits], dtype=np.uint16)


def _radar_series(config: SimulatorConfig, ground: Ground, orbit: Orbit) -> tuple[I16, I16]:
    """Record a year of Sentinel-1 from one side: codes and days."""
    visits = _visits(config, ground, (orbit,))
    shape = (len(visits), ground.y.size, ground.x.size, NUM_POLARISATIONS)
    codes = np.zeros(shape, dtype=np.int16)
    for number, overflight in enumerate(visits):
        codes[number] = observe_radar(config, ground, overflight)
    return codes, np.array([visit.doy for visit in visits], dtype=np.int16)


def _truth(config: SimulatorConfig, ground: Ground) -> tuple[U16, U16, F32, F32]:
    """Return land_cover, parcel, biomass and green_up of the window."""
    season, parcels = ground.season, ground.parcels
    owner = parcels.member[..., 0]
    is_pure = parcels.share[..., 0] >= _PURE
    land_cover = np.where(is_pure, season.codes[owner] + 1, 0).astype(np.uint16)
    mass = dry_matter(config, parcels, season)[owner] * (1.0 + 0.5 * ground.growth)
    has_green_up = lookup(lambda c: float(c.has_green_up), season.codes) > 0.0
    day = np.where(has_green_up, season.up, np.nan)[owner]
    return (
        land_cover,
        parcels.group[owner].astype(np.uint16),
        np.where(is_pure, mass, np.nan).astype(np.float32),
        np.where(is_pure, day, np.nan).astype(np.float32),
    )
