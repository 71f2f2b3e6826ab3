"""What differs between archives, written down once: collections, names of assets, offset, nodata.

The one idea: a *form* is the manner in which a collection stores a sensor, and a provider is a choice
of forms. Which form an item has is seen from the item itself, by its collection and the keys of its
assets, so that a static catalogue may hold scenes of any archive; band names of STAC extensions,
which changed between versions, are never asked.

It deliberately reads nothing: these are facts, `search` and `reading` use them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from models.bands import S2_BANDS
from tasks.errors import ParamsError
from tasks.stac.items import Scene

CLASSES = "SCL"
"""Name of the scene classification, beside the names of bands."""

ORBITS = ("ascending", "descending")
"""Orbit directions, as ``sat:orbit_state`` has them."""


@dataclass(frozen=True, slots=True)
class OpticalForm:
    """How a collection stores Sentinel-2 L2A."""

    name: str
    collections: tuple[str, ...]
    keys: Mapping[str, str]
    """Asset key of each band of ``S2_BANDS`` and of the scene classification."""
    keeps_offset: bool
    """Whether pixels of baseline 04.00 and later still hold the offset of 1000."""
    source: str
    """Name of the archive in a tile's record."""
    invalid_classes: frozenset[int] = frozenset({0, 1, 2, 3, 8, 9})
    """No data, defective, dark, shadow, cloud (medium, high); as the released code has it."""
    nodata: float = 0


@dataclass(frozen=True, slots=True)
class RadarForm:
    """How a collection stores Sentinel-1 gamma0: linear power, corrected for the terrain."""

    collections: tuple[str, ...]
    keys: Mapping[str, str]
    """Asset key of each band of ``S1_BANDS``."""
    nodata: float = -32768
    orbit_property: str = "sat:orbit_state"


@dataclass(frozen=True, slots=True)
class Provider:
    """An archive that can be searched."""

    name: str
    optical: tuple[OpticalForm, ...]
    """The first is asked for unless another collection is chosen."""
    radar: tuple[RadarForm, ...] = ()
    api: str = ""
    """Address of the STAC API; empty for a static catalogue."""
    page_size: int = 100
    signs: bool = False
    """Addresses need a signature of Planetary Computer, which expires within the hour."""
    credentials: tuple[str, ...] = ()
    """Environment variables of which one must be set."""

    def collections(self, chosen: str = "") -> tuple[str, ...]:
        """Return the collections to search.

        Args:
            chosen: Optical collection to take instead of the usual one.

        Raises:
            ParamsError: The provider has no such collection, or it must not be used.
        """
        known = list(dict.fromkeys(name for form in self.optical for name in form.collections))
        if chosen and chosen not in known:
            raise ParamsError(
                f"one of {', '.join(known)}",
                found=f"{chosen} ({REFUSED.get(chosen, 'unknown')})",
                where="--collection",
                mend="Choose one of them, or leave the option out.",
            )
        usual = tuple(known) if not self.api else self.optical[0].collections[:1]
        optical = (chosen,) if chosen else usual
        return (*optical, *(name for form in self.radar for name in form.collections))

    def is_optical(self, scene: Scene) -> bool:
        """Tell whether a scene belongs to one of the optical collections."""
        return any(scene.collection in form.collections for form in self.optical)

    def optical_form(self, scene: Scene) -> OpticalForm:
        """Return the form of an optical scene: that whose keys it has most of."""
        forms = [form for form in self.optical if scene.collection in form.collections]
        return max(forms, key=lambda form: len(set(form.keys.values()) & scene.hrefs.keys()))

    def is_radar(self, scene: Scene) -> bool:
        """Tell whether a scene belongs to one of the radar collections."""
        return any(scene.collection in form.collections for form in self.radar)

    def radar_form(self, scene: Scene) -> RadarForm:
        """Return the form of a radar scene."""
        return next(form for form in self.radar if scene.collection in form.collections)


REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "sentinel-1-grd": "amplitude without correction for the terrain, which no model was "
        "trained on; use a catalogue with sentinel-1-rtc"
    }
)
"""Collections that must not be used, and why."""

_BY_COLOUR = MappingProxyType(
    {
        **{"B04": "red", "B02": "blue", "B03": "green", "B08": "nir", "B8A": "nir08"},
        **{"B05": "rededge1", "B06": "rededge2", "B07": "rededge3"},
        **{"B11": "swir16", "B12": "swir22", CLASSES: "scl"},
    }
)
_BY_NUMBER = MappingProxyType({name: name for name in (*S2_BANDS, CLASSES)})
_BY_RESOLUTION = MappingProxyType(
    {name: f"{name}_10m" for name in ("B04", "B02", "B03", "B08")}
    | {name: f"{name}_20m" for name in ("B8A", "B05", "B06", "B07", "B11", "B12", CLASSES)}
)

EARTH_SEARCH = OpticalForm("earth-search", ("sentinel-2-l2a",), _BY_COLOUR, False, "aws")
EARTH_SEARCH_C1 = OpticalForm("earth-search-c1", ("sentinel-2-c1-l2a",), _BY_COLOUR, True, "aws")
PLANETARY_COMPUTER = OpticalForm("planetary-computer", ("sentinel-2-l2a",), _BY_NUMBER, True, "mpc")
CDSE = OpticalForm("cdse", ("sentinel-2-l2a",), _BY_RESOLUTION, True, "cdse")
RTC = RadarForm(("sentinel-1-rtc",), MappingProxyType({"VV": "vv", "VH": "vh"}))

_ALL = (
    Provider(
        "earth-search",
        (EARTH_SEARCH, EARTH_SEARCH_C1),
        api="https://earth-search.aws.element84.com/v1",
        page_size=100,  # it refused a query at 250 a page that it answered at 100
    ),
    Provider(
        "planetary-computer",
        (PLANETARY_COMPUTER,),
        (RTC,),
        api="https://planetarycomputer.microsoft.com/api/stac/v1",
        page_size=250,
        signs=True,
    ),
    Provider(
        "cdse",
        (CDSE,),
        api="https://stac.dataspace.copernicus.eu/v1",
        credentials=("AWS_ACCESS_KEY_ID", "AWS_PROFILE"),
    ),
    Provider("static", (EARTH_SEARCH, EARTH_SEARCH_C1, PLANETARY_COMPUTER, CDSE), (RTC,)),
)

PROVIDERS: Mapping[str, Provider] = MappingProxyType({one.name: one for one in _ALL})
"""Every archive by name."""


def provider_of(name: str) -> Provider:
    """Return a provider by name.

    Raises:
        ParamsError: There is none of that name.
    """
    if name not in PROVIDERS:
        raise ParamsError(
            f"one of {', '.join(PROVIDERS)}",
            found=name,
            where="--provider",
            mend="Choose one of them.",
        )
    return PROVIDERS[name]
