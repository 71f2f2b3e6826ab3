"""A small STAC API on the loopback: a landing page, and a search that answers page by page.

It does what catalogues do in the search that ingest makes (collections, box, time), no more. Pages are
shorter than asked for, as a server may decide, and a search for longer ones than it can bear fails.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

import pystac

from tests.range_server import running

_CONFORMS = [f"https://api.stacspec.org/v1.0.0/{part}" for part in ("core", "item-search")]


@dataclass
class StacApi:
    """What the API holds and what it was asked."""

    items: list[dict[str, Any]]
    page: int
    """Items of a page at most."""
    max_limit: int
    """What a search may ask for."""
    url: str = ""
    searches: list[dict[str, Any]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    """Statuses of the next searches, before it answers."""


@contextmanager
def serve_api(
    items: Sequence[pystac.Item], *, page: int, max_limit: int = 250
) -> Iterator[StacApi]:
    """Serve items, last one first, on a free port until the block ends."""
    documents = [item.to_dict(include_self_link=False) for item in items]
    for document in documents:
        document["links"] = []
    state = StacApi(documents[::-1], page, max_limit)
    handler = type("Handler", (_Handler,), {"state": state})
    with running(handler) as state.url:
        yield state


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: StacApi

    def do_GET(self) -> None:
        url = self.state.url
        search = {"rel": "search", "href": f"{url}/search", "type": "application/geo+json"}
        self._send(
            200,
            {
                "type": "Catalog",
                "id": "loopback",
                "stac_version": "1.0.0",
                "description": "A catalogue to test with.",
                "conformsTo": _CONFORMS,
                "links": [
                    {"rel": "self", "href": url, "type": "application/json"},
                    {"rel": "root", "href": url, "type": "application/json"},
                    search | {"method": "POST"},
                    search | {"method": "GET"},
                ],
            },
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.state.searches.append(body)
        limit, start = int(body.get("limit", 10)), int(body.get("token", 0))
        if self.state.failures:
            self._send(self.state.failures.pop(0), {"code": "Busy", "description": "later"})
        elif limit > self.state.max_limit:
            self._send(502, {"code": "TooLarge", "description": "the page is too large"})
        else:
            self._send(200, self._page(body, start, min(limit, self.state.page)))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _page(self, body: dict[str, Any], start: int, size: int) -> dict[str, Any]:
        found = [item for item in self.state.items if _fits(item, body)]
        links = []
        if start + size < len(found):
            again = {"token": start + size}
            href = f"{self.state.url}/search"
            links = [{"rel": "next", "href": href, "method": "POST", "body": again, "merge": True}]
        page = found[start : start + size]
        return {"type": "FeatureCollection", "features": page, "links": links}

    def _send(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _fits(item: dict[str, Any], body: dict[str, Any]) -> bool:
    west, south, east, north = item["bbox"]
    box = body.get("bbox", [-180, -90, 180, 90])
    first, last = (datetime.fromisoformat(text) for text in body["datetime"].split("/"))
    return bool(
        item["collection"] in body.get("collections", [item["collection"]])
        and west <= box[2]
        and box[0] <= east
        and south <= box[3]
        and box[1] <= north
        and first <= datetime.fromisoformat(item["properties"]["datetime"]) <= last
    )
