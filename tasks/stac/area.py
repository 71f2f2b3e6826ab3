"""What part of the Earth and which years are asked for.

It deliberately accepts degrees (WGS84) only: GeoJSON knows no other, and a box of map coordinates
taken for degrees would be found in no catalogue.
"""

import json
import re
from pathlib import Path
from typing import Any

import shapely
import shapely.geometry
from shapely.errors import ShapelyError

from tasks.errors import ParamsError
from tasks.stac.grid import box_of

_SOUTH, _NORTH = -80.0, 84.0
FIRST_YEAR, LAST_YEAR = 2015, 2100
_YEARS = re.compile(r"^(\d{4})(?:-(\d{4}))?$")


def area_of_bbox(text: str) -> Any:
    """Return the shape of ``W,S,E,N`` in degrees; west above east crosses the antimeridian.

    Raises:
        ParamsError: Not four numbers, or no box on the Earth.
    """
    try:
        west, south, east, north = (float(number) for number in text.split(","))
    except ValueError as error:
        raise _refusal("--bbox", "W,S,E,N in degrees, e.g. 5.4,50.9,5.5,51.0", text) from error
    if west == east or south >= north:
        raise _refusal("--bbox", "west unlike east, and south below north", text)
    if max(abs(west), abs(east)) > 180:
        raise _refusal("--bbox", "longitudes in -180..180", text)
    return _checked("--bbox", box_of((west, south, east, north)))


def area_of_file(path: Path) -> Any:
    """Return the polygons of a GeoJSON file: a geometry, a feature or a collection of features.

    Raises:
        ParamsError: Not readable, no polygon in it, or not in degrees.
    """
    try:
        content = json.loads(path.read_text())
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        shapes = [shapely.geometry.shape(f.get("geometry", f)) for f in features]
        area = shapely.unary_union([shapely.make_valid(shape) for shape in shapes])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ShapelyError) as error:
        raise _refusal("--geometry", "a GeoJSON file", f"{path}: {error}") from error
    if not area.area > 0:
        raise _refusal("--geometry", "at least one polygon", f"none in {path}")
    return _checked("--geometry", area)


def years_of(text: str) -> list[int]:
    """Return the years of ``2019``, ``2019,2021`` or ``2019-2021``, sorted.

    Raises:
        ParamsError: Anything else, or a year without satellites.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _YEARS.match(part.strip())
        if not match:
            raise _refusal("--years", "years, e.g. 2019 or 2019,2021 or 2019-2021", text)
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not found or min(found) < FIRST_YEAR or max(found) > LAST_YEAR:
        raise _refusal("--years", f"rising years from {FIRST_YEAR} on", text)
    return sorted(found)


def _checked(option: str, area: Any) -> Any:
    west, south, east, north = shapely.bounds(area)
    if not (west >= -180 and east <= 180 and south >= _SOUTH and north <= _NORTH):
        raise _refusal(
            option,
            f"longitudes in -180..180, and latitudes in {_SOUTH:.0f}..{_NORTH:.0f}, where UTM ends",
            f"{west:g},{south:g},{east:g},{north:g}",
        )
    return area


def _refusal(option: str, expected: str, found: str) -> ParamsError:
    return ParamsError(expected, found=found, where=option, mend="Give it as described.")
