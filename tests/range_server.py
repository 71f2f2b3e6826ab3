"""A web server on the loopback that serves a folder by ranges, counts, and fails when told to.

It is what object stores do, as far as GDAL and STAC readers notice: HEAD, GET, one range a request.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@dataclass
class Fault:
    """What to do instead of answering the requests whose path holds ``part``."""

    part: str
    status: int = 503
    times: int = 1_000_000_000
    is_cut: bool = False
    """Send half of the body instead, and hang up."""


@dataclass(frozen=True)
class Answer:
    """One answered request."""

    method: str
    path: str
    query: str
    status: int
    num_bytes: int
    is_range: bool


@dataclass
class RangeServer:
    """The served folder, its address, what was asked, and what goes wrong."""

    root: Path
    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    held: threading.Event = field(default_factory=threading.Event)
    _hold: str = ""
    _go_on: threading.Event = field(default_factory=threading.Event)

    def hold(self, part: str) -> None:
        """Answer no request for a path that holds ``part`` until ``release``."""
        self.held.clear()
        self._go_on.clear()
        self._hold = part

    def release(self) -> None:
        """Answer again."""
        self._hold = ""
        self._go_on.set()

    def wait(self, path: str) -> None:
        """Hold a request up if it is one of those."""
        if self._hold and self._hold in path:
            self.held.set()
            self._go_on.wait(60)

    def sent(self, part: str = "") -> int:
        """Return the bytes of bodies that were sent for paths that hold ``part``."""
        return sum(answer.num_bytes for answer in self.answers if part in answer.path)

    def paths(self, part: str = "") -> list[str]:
        """Return the paths that were asked for, each once, sorted."""
        return sorted({answer.path for answer in self.answers if part in answer.path})

    def fault_of(self, path: str, *, has_body: bool) -> Fault | None:
        """Take one use of the first fault that is meant for this path."""
        with self.lock:
            for fault in self.faults:
                if fault.part in path and fault.times > 0 and (has_body or not fault.is_cut):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def serve(root: Path) -> Iterator[RangeServer]:
    """Serve a folder on a free port of the loopback until the block ends."""
    state = RangeServer(root)
    handler = type("Handler", (_Handler,), {"state": state})
    with running(handler) as state.url:
        yield state


@contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a handler on a free port of the loopback and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: RangeServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.wait(path)
        fault = self.state.fault_of(path, has_body=with_body)
        if fault and not fault.is_cut:
            self._send(fault.status, b"", {"Retry-After": "0"}, total=0, with_body=with_body)
            return
        file = self.state.root / path.lstrip("/")
        if not file.is_file():
            self._send(404, b"", {}, total=0, with_body=with_body)
            return
        content = file.read_bytes()
        status, part, headers = _part_of(content, self.headers.get("Range"))
        total = len(part)
        if fault and fault.is_cut:
            part, self.close_connection = part[: total // 2], True
        self._send(status, part, headers, total=total, with_body=with_body)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, total: int, with_body: bool
    ) -> None:
        """Note the answer before it leaves, so that a reader finds it counted."""
        split = urlsplit(self.path)
        sent = len(body) if with_body else 0
        note = Answer(self.command, unquote(split.path), split.query, status, sent, status == 206)
        with self.state.lock:
            self.state.answers.append(note)
        self.send_response(status)
        for name, value in {
            "Accept-Ranges": "bytes",
            "Content-Length": str(total),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _part_of(content: bytes, wanted: str | None) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of a request with this ``Range`` header."""
    found = _RANGE.match(wanted or "")
    if not found:
        return 200, content, {}
    size, (first, last) = len(content), found.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size:
        return 416, b"", {"Content-Range": f"bytes */{size}"}
    return 206, content[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
