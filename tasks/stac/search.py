"""Find scenes: one small interface, a STAC API behind it or a static catalogue.

The one idea: whatever the catalogue, an answer is all scenes that touch a box within a span of time,
sorted by id, so that nothing downstream depends on the order of a server's answers. An API is asked
page after page until there is none: a cap on matches would cut the end of the year off.

It deliberately filters by nothing else. How cloudy a scene is decides no more than its pixels do, and
dropping whole scenes by such a number shows as an edge in the map.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pystac
import shapely
import shapely.geometry
from shapely.errors import ShapelyError
from urllib3 import Retry

from tasks.errors import DataError
from tasks.stac.grid import box_of
from tasks.stac.items import Bounds, Scene, resolve, scene_of, without_query, without_secrets

_RETRIES = 5
_RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
_TIMEOUT_S = 60.0
_READERS = 8  # files of a catalogue that are fetched at once


class Catalogue(Protocol):
    """What can be searched."""

    def search(
        self, collections: Sequence[str], bbox: Bounds, start: date, end: date
    ) -> list[Scene]:
        """Return every scene of the collections that touches a box, sorted by id.

        Args:
            collections: Names of collections; those that the catalogue does not have are left out.
            bbox: West, south, east, north in degrees, west below east.
            start: First day, in UTC.
            end: Last day, in UTC.
        """
        ...


class ApiCatalogue:
    """A STAC API.

    Args:
        url: Its landing page.
        page_size: Items of a page; what is safe differs between servers.
    """

    def __init__(self, url: str, page_size: int) -> None:
        self._url, self._page_size = url, page_size

    @cached_property
    def _client(self) -> Any:
        from pystac_client import Client

        return Client.open(self._url, stac_io=_reader())

    def search(
        self, collections: Sequence[str], bbox: Bounds, start: date, end: date
    ) -> list[Scene]:
        """Ask the server; see ``Catalogue``.

        Raises:
            DataError: It cannot be reached or refuses, after retries.
        """
        import requests
        from pystac_client.exceptions import APIError

        try:
            answer = self._client.search(
                collections=list(collections),
                bbox=list(bbox),
                datetime=f"{start}T00:00:00Z/{end}T23:59:59.999Z",
                limit=self._page_size,
                max_items=None,
            )
            found = [scene_of(item, self._url) for item in answer.items_as_dicts()]
        except (APIError, requests.RequestException, pystac.STACError) as error:
            raise DataError(
                "an answer of the STAC API",
                found=without_secrets(f"{type(error).__name__}: {error}"),
                where=without_query(self._url),
                mend="See that the address is right and can be reached, and run it again.",
            ) from error
        return _in_order(scene for scene in found if start <= scene.day <= end)


class StaticCatalogue:
    """A catalogue of files, below a folder or a web address, that is walked from link to link.

    The whole catalogue is read once, at the first search.

    Args:
        place: Path or http address of its root file, or the folder of a ``catalog.json``.
    """

    def __init__(self, place: str) -> None:
        if urlsplit(place).scheme not in ("http", "https"):
            path = Path(place).absolute()
            place = str(path / "catalog.json" if path.is_dir() else path)
        self.place = place

    @cached_property
    def _reader(self) -> Any:
        return _reader()

    @cached_property
    def scenes(self) -> list[Scene]:
        """Every scene of the catalogue, sorted by id.

        Raises:
            DataError: A file cannot be read, or a link leads where it must not.
        """
        with ThreadPoolExecutor(_READERS) as readers:
            return _in_order(self._walk(readers))

    def search(
        self, collections: Sequence[str], bbox: Bounds, start: date, end: date
    ) -> list[Scene]:
        """Choose among the catalogue's scenes; see ``Catalogue``."""
        box = box_of(bbox)
        return [
            scene
            for scene in self.scenes
            if scene.collection in collections
            and start <= scene.day <= end
            and _touches(scene, box)
        ]

    def _walk(self, readers: ThreadPoolExecutor) -> Iterator[Scene]:
        """Yield scenes level by level; a file that is linked twice is read once."""
        level, seen = [(self.place, "")], {self.place}
        while level:
            contents = readers.map(lambda spot: self._read(spot[0]), level)
            below: list[tuple[str, str]] = []
            for (place, collection), content in zip(level, contents, strict=True):
                if content.get("type") == "Feature":
                    yield scene_of(content, place, collection)
                    continue
                inside = content.get("id") if content.get("type") == "Collection" else collection
                below += [(link, str(inside)) for link in _links(content, place)]
            level = [spot for spot in dict(below).items() if spot[0] not in seen]
            seen |= {place for place, _ in level}

    def _read(self, place: str) -> dict[str, Any]:
        try:
            content = json.loads(self._reader.read_text(place))
            if not isinstance(content, dict):
                raise ValueError("no JSON object")
        except Exception as error:
            raise DataError(
                "a catalogue, collection or item as JSON",
                found=without_secrets(f"{type(error).__name__}: {error}"),
                where=without_query(place),
                mend="Restore the file, or mend the link to it.",
            ) from error
        return content


def year_span(year: int) -> tuple[date, date]:
    """Return the first and the last day of a year."""
    return date(year, 1, 1), date(year + 1, 1, 1) - timedelta(days=1)


def _links(content: Mapping[str, Any], place: str) -> list[str]:
    """Return where the members of a catalogue lie."""
    links = content.get("links")
    return [
        resolve(str(link.get("href", "")), place)
        for link in (links if isinstance(links, list) else [])
        if isinstance(link, dict) and link.get("rel") in ("child", "item")
    ]


def _touches(scene: Scene, box: Any) -> bool:
    """Tell whether a scene may have pixels in a box; without a footprint that can be read it may."""
    if scene.bbox is not None:
        if not box.intersects(box_of(scene.bbox)):
            return False
        if scene.bbox[0] > scene.bbox[2]:
            return True  # footprints across the antimeridian are written in several ways
    if not scene.footprint:
        return True
    try:
        shape = shapely.make_valid(shapely.geometry.shape(scene.footprint))
    except (ValueError, LookupError, TypeError, AttributeError, ShapelyError):
        return True  # its pixels tell
    return bool(shape.intersects(box))


def _in_order(scenes: Iterator[Scene]) -> list[Scene]:
    """Sort by id, and leave out repetitions: a page may repeat what the one before it held."""
    by_id = {(scene.id, scene.collection): scene for scene in scenes}
    return [by_id[key] for key in sorted(by_id)]


def _reader() -> Any:
    """Return what reads JSON from files and servers; a server that hangs is an error, not a wait."""
    from pystac_client.stac_api_io import StacApiIO

    retries = Retry(
        _RETRIES, backoff_factor=1, status_forcelist=_RETRIED_STATUS, allowed_methods=None
    )
    return StacApiIO(max_retries=retries, timeout=_TIMEOUT_S)
