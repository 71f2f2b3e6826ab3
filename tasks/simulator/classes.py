"""The ten land-cover classes: how they look, when they grow, how they scatter radar.

One table, read by every other part of the simulator. Reflectances are DN (reflectance x 10,000) in
the order B04 B02 B03 B08 B8A B05 B06 B07 B11 B12; radar levels are in the archive's code
(20 log10(power) + 50) x 200. The levels were set so that monthly medians of fields, grassland and
settlement fall near those of a Belgian Sentinel scene of 2018; forests, water and bare ground
follow published spectra in shape. These are typical values, varied per parcel elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.simulator.randomness import F64, I64

NEVER = 999.0  # a day of year that no year reaches
Spectrum = tuple[float, ...]

_SOIL = (1320, 790, 1080, 2050, 2330, 1600, 1900, 2130, 2900, 2450)
_STRAW = (1650, 930, 1330, 2750, 3000, 1950, 2350, 2600, 3650, 2750)
_LITTER = (820, 560, 700, 1800, 2050, 1100, 1500, 1720, 2350, 1550)
_THATCH = (1000, 640, 880, 2300, 2500, 1400, 1900, 2150, 2950, 2050)


@dataclass(frozen=True, slots=True)
class LandClass:
    """Typical appearance and calendar of one class."""

    name: str
    """English name, as written in ``land_cover.json``."""
    colour: str
    """Map colour, #rrggbb."""
    ground: Spectrum = _SOIL
    """DN of what lies under the plants, dry."""
    green: Spectrum = (300, 260, 540, 4400, 4450, 950, 3050, 4150, 1750, 850)
    """DN of the full green canopy."""
    dry: Spectrum = _STRAW
    """DN of ripe plants, stubble or fallen leaves."""
    petals: float = 0.0
    """Strength of a yellow flowering, 0 none."""
    evergreen: float = 0.0
    """Leaf area all year, m2/m2."""
    peak: float = 0.0
    """Leaf area that the season adds at its height, m2/m2."""
    up: float = NEVER
    """Day of year when half of the peak is reached."""
    up_width: float = 10.0
    """Days from half of the peak to nearly all of it."""
    down: float = NEVER
    """Day of year when half of the peak has ripened or fallen."""
    down_width: float = 10.0
    """Days from half to nearly none."""
    harvest: float = NEVER
    """Day of year when the field is cleared."""
    stubble: float = 0.0
    """Share of ground under stubble after harvest, 0 to 1."""
    autumn_leaf: float = 0.0
    """Leaf area in which the crop stands over winter when sown the autumn before, m2/m2."""
    autumn_sowing: float = NEVER
    """Day of the year before when the winter crop has half of its autumn leaves."""
    is_crop: bool = False
    """Takes part in the rotation."""
    is_meadow: bool = False
    """Is mown."""
    snow_share: float = 1.0
    """Share of a snow cover that is seen from above, 0 to 1."""
    vv: tuple[float, float] = (5950.0, 5600.0)
    """VV code of bare ground of middling moisture, and of the full canopy."""
    vh: tuple[float, float] = (2450.0, 3100.0)
    """VH code of the same two."""
    yield_t_ha: float = 0.0
    """Above-ground dry matter that a typical year grows, t/ha."""

    @property
    def has_green_up(self) -> bool:
        """Whether a yearly green-up date exists: deciduous, growing, not a settlement's gardens."""
        return self.yield_t_ha > 0.0 and self.peak > 1.0


# Label code = position + 1; 0 stays free for "no label".
CLASSES: tuple[LandClass, ...] = (
    LandClass(
        "winter cereal", "#e8c548", peak=4.6, up=98, up_width=15, down=182, down_width=9,
        harvest=206, stubble=0.55, autumn_leaf=0.7, autumn_sowing=298, is_crop=True,
        green=(320, 270, 560, 4350, 4400, 980, 2950, 4050, 1700, 820),
        vv=(5950, 4300), vh=(2450, 2450), yield_t_ha=15.0,
    ),
    LandClass(
        "winter rapeseed", "#f4f05a", peak=4.8, up=88, up_width=14, down=178, down_width=10,
        harvest=203, stubble=0.5, autumn_leaf=1.5, autumn_sowing=262, is_crop=True, petals=1.0,
        green=(380, 310, 700, 4800, 4800, 1150, 3350, 4500, 1850, 900),
        vv=(5950, 6050), vh=(2450, 4150), yield_t_ha=12.0,
    ),
    LandClass(
        "maize", "#e08a2c", peak=4.6, up=171, up_width=11, down=256, down_width=10,
        harvest=276, stubble=0.25, is_crop=True,
        green=(430, 390, 660, 4450, 4500, 1000, 3100, 4300, 1900, 950),
        vv=(5950, 6150), vh=(2450, 3750), yield_t_ha=19.0,
    ),
    LandClass(
        "potato", "#a8643c", peak=4.3, up=163, up_width=10, down=238, down_width=13,
        harvest=264, stubble=0.1, is_crop=True,
        green=(470, 410, 820, 4650, 4600, 1220, 3350, 4250, 2050, 1100),
        vv=(6100, 6600), vh=(2650, 3950), yield_t_ha=13.0,
    ),
    LandClass(
        "grassland", "#8fce5a", evergreen=1.5, peak=2.3, up=92, up_width=16, down=298,
        down_width=22, is_meadow=True, ground=_THATCH, dry=_THATCH,
        green=(300, 270, 560, 4450, 4500, 1050, 3300, 4200, 1950, 980),
        vv=(5600, 5350), vh=(2600, 2950), yield_t_ha=9.0,
    ),
    LandClass(
        "broadleaf forest", "#2f9e44", evergreen=0.35, peak=4.7, up=117, up_width=7, down=298,
        down_width=11, ground=_LITTER, dry=_LITTER, snow_share=0.5,
        green=(260, 230, 480, 4050, 4150, 820, 2950, 3750, 1700, 760),
        vv=(6450, 6350), vh=(4250, 4350), yield_t_ha=11.0,
    ),
    LandClass(
        "conifer forest", "#1b5e3a", evergreen=3.2, peak=0.7, up=142, up_width=16, down=285,
        down_width=25, ground=_LITTER, dry=_LITTER, snow_share=0.3,
        green=(260, 215, 390, 2350, 2500, 620, 1750, 2250, 1080, 520),
        vv=(6200, 6200), vh=(4050, 4050), yield_t_ha=10.0,
    ),
    LandClass(
        "water", "#2d6cc0", ground=(260, 330, 400, 190, 170, 260, 210, 200, 90, 60),
        snow_share=0.0, vv=(3100, 3100), vh=(1250, 1250),
    ),
    LandClass(
        "built-up", "#c44b4b", evergreen=0.25, peak=0.55, up=108, up_width=14, down=296,
        down_width=16, ground=(1340, 1060, 1220, 2150, 2330, 1540, 1900, 2110, 2400, 2030),
        dry=_THATCH, snow_share=0.55, vv=(7850, 7350), vh=(4300, 4000),
    ),
    LandClass(
        "bare ground", "#b9a890", evergreen=0.05, peak=0.25, up=112, up_width=16, down=270,
        down_width=25, ground=(1950, 1250, 1630, 2480, 2650, 2150, 2350, 2500, 3150, 2800),
        dry=_THATCH, vv=(5750, 5500), vh=(2350, 2500),
    ),
)  # fmt: skip

CEREAL, RAPESEED, MAIZE, POTATO, GRASS, BROADLEAF, CONIFER, WATER, BUILT, BARE = range(10)

# Crop sequences; a parcel follows one of them from a year of its own.
ROTATIONS: tuple[tuple[int, ...], ...] = (
    (CEREAL, MAIZE, CEREAL, RAPESEED),
    (MAIZE, MAIZE, CEREAL, MAIZE),
    (POTATO, CEREAL, MAIZE, CEREAL),
    (RAPESEED, CEREAL, POTATO, CEREAL),
)

SNOW: Spectrum = (8300, 8600, 8500, 7900, 7600, 8050, 7900, 7750, 1150, 950)
CLOUD: Spectrum = (6900, 7200, 6950, 7300, 7300, 6950, 7100, 7200, 5200, 4300)
PETALS: Spectrum = (900, 60, 900, 500, 500, 950, 700, 600, 300, 250)


def lookup(field: Callable[[LandClass], float], codes: I64) -> F64:
    """Return one number of the class table per element of ``codes`` (0-based class positions)."""
    return np.array([field(item) for item in CLASSES], dtype=np.float64)[codes]


def spectra(field: Callable[[LandClass], Spectrum], codes: I64) -> F64:
    """Return one spectrum of the class table per code: shape ``codes.shape + (10,)``, DN."""
    return np.array([field(item) for item in CLASSES], dtype=np.float64)[codes]
