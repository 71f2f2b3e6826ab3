"""One STAC item, reduced to what is known of a scene before its pixels are read.

The one idea: items are taken as plain JSON, not as objects of a library, so that their digest is that
of what the catalogue said and does not change with a library's version. Everything in them comes from
outside: addresses that a catalogue may not send us to are refused here.

It deliberately does not know providers, sensors or grids.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import unquote, urlsplit

import pystac.utils

from tasks.errors import DataError

Bounds = tuple[float, float, float, float]

_REMOTE = ("http", "https", "s3")
_LONGEST = 600  # characters of a message: a server may answer with a whole page
_SQUARE = re.compile(r"(?:^|[_-])T?(\d{2}[C-X][A-Z]{2})(?:[_-]|$)")


@dataclass(frozen=True, slots=True)
class Scene:
    """What an item says."""

    id: str
    collection: str
    when: datetime
    """Time of acquisition, in UTC."""
    bbox: Bounds | None
    """West, south, east, north in degrees; west above east where it crosses the antimeridian."""
    footprint: Mapping[str, Any] | None
    """GeoJSON geometry, in degrees."""
    properties: Mapping[str, Any]
    place: str
    """Path or address that the item was read from, which relative addresses start at."""
    hrefs: Mapping[str, str]
    """Address of each asset as it is written, by key."""
    offsets: Mapping[str, float]
    """Offset of ``raster:bands`` (in reflectance) of each asset that declares one."""
    digest: str
    """SHA-256 of the item as JSON with sorted keys."""

    @property
    def day(self) -> date:
        """Day of acquisition in UTC."""
        return self.when.date()

    @property
    def baseline(self) -> float | None:
        """Processing baseline of Sentinel-2, e.g. 5.09; ``None`` if the item does not say."""
        names = ("s2:processing_baseline", "processing:version")
        for given in (self.properties.get(name) for name in names):
            try:
                number = float(str(given))
            except ValueError:
                continue
            if math.isfinite(number):
                return number
        return None

    @property
    def square(self) -> str:
        """Square of the military grid, e.g. ``31UFS``; empty if neither item nor id tell."""
        names = ("grid:code", "s2:mgrs_tile")
        given = next((str(self.properties[name]) for name in names if name in self.properties), "")
        found = _SQUARE.search(given) or _SQUARE.search(self.id)
        return found.group(1) if found else ""

    @property
    def datatake(self) -> str:
        """The pass that the scene is part of, the same for every processing of it."""
        given = str(self.properties.get("s2:datatake_id", ""))
        passed = re.sub(r"_N\d\d\.\d\d$", "", given)  # the end names the baseline
        return passed or f"{self.properties.get('platform', self.id[:3])} {self.day}"

    def href(self, key: str) -> str:
        """Return where an asset lies, as an absolute path or address.

        Raises:
            DataError: The item has no such asset, or its address must not be followed.
        """
        if key not in self.hrefs:
            raise DataError(
                f"the asset {key}",
                found=", ".join(sorted(self.hrefs)) or "no asset",
                where=f"item {self.id}",
                mend="Mend the catalogue; a scene without it is not used.",
            )
        return resolve(self.hrefs[key], self.place)


def scene_of(item: Mapping[str, Any], place: str, collection: str = "") -> Scene:
    """Read an item.

    Args:
        item: The item's JSON.
        place: Path or address that it was read from, which relative addresses start at.
        collection: Collection that it was found in, for items that do not say.

    Raises:
        DataError: It is no item, or has no time.
    """
    try:
        assets = item["assets"]
        return Scene(
            id=str(item["id"]),
            collection=str(item.get("collection") or collection),
            when=_time_of(item["properties"]),
            bbox=_bounds_of(item.get("bbox")),
            footprint=item.get("geometry"),
            properties=item["properties"],
            place=place,
            hrefs={str(key): str(asset["href"]) for key, asset in assets.items()},
            offsets={str(key): o for key, a in assets.items() if (o := _offset(a)) is not None},
            digest=sha256(json.dumps(item, sort_keys=True).encode()).hexdigest(),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "a STAC item with id, properties, datetime and assets",
            found=f"{type(error).__name__}: {error}",
            where=without_query(place),
            mend="Mend the catalogue.",
        ) from error


def resolve(href: str, place: str) -> str:
    """Return a link as an absolute path or address.

    Args:
        href: The link as it is written.
        place: Path or address of the file that it stands in.

    Raises:
        DataError: The link has a form that is not read (GDAL's virtual files among them), or leads
            from a remote catalogue to this machine's files.
    """
    full = str(pystac.utils.make_absolute_href(href, place, start_is_dir=False))
    scheme = urlsplit(full).scheme
    if scheme == "file":
        full, scheme = unquote(urlsplit(full).path), ""
    from_here = urlsplit(place).scheme not in _REMOTE
    is_path = scheme == "" and full.startswith("/") and not full.startswith("/vsi")
    if scheme not in _REMOTE and not (is_path and from_here):
        raise DataError(
            "an address of http, https or s3"
            + (", or a path of a plain file" if from_here else " in a remote catalogue"),
            found=without_query(href),
            where=without_query(place),
            mend="Mend the catalogue, or do not use it.",
        )
    return full


def without_query(href: str) -> str:
    """Return an address without query, fragment and user, where signatures and tokens stand."""
    parts = urlsplit(href)
    if parts.scheme not in _REMOTE:
        return href
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


def without_secrets(text: str) -> str:
    """Return a message without what the addresses in it may hold in secret, cut to a readable length."""
    open_text = re.sub(r"\?[^\s'\"]*|(?<=//)[^\s/@'\"]*@", "", text)
    return open_text if len(open_text) <= _LONGEST else f"{open_text[:_LONGEST]}..."


def _time_of(properties: Mapping[str, Any]) -> datetime:
    given = properties.get("datetime") or properties["start_datetime"]
    when = datetime.fromisoformat(str(given))
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _bounds_of(given: Any) -> Bounds | None:
    if not given:
        return None
    west, south, east, north = given if len(given) == 4 else (*given[:2], *given[3:5])
    return float(west), float(south), float(east), float(north)


def _offset(asset: Mapping[str, Any]) -> float | None:
    """Return the offset of the first band, of STAC 1.0 (``raster:bands``) or 1.1 (``bands``)."""
    old, new = asset.get("raster:bands") or [{}], asset.get("bands") or [{}]
    candidates = (old[0].get("offset"), new[0].get("raster:offset"), asset.get("raster:offset"))
    given = next((float(one) for one in candidates if one is not None), math.nan)
    return given if math.isfinite(given) else None
