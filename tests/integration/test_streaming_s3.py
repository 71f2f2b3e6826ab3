"""Streaming from S3 (a server on this machine): equal to the disk, and every fault by its name."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import LineageError, ShardDamaged, StorageError
from tasks.shards.index import Block, ShardEntry, write_index
from tasks.shards.rows import DPIXEL_SCHEMA, encode_dpixels
from tasks.shards.writer import ShardWriter
from tasks.streaming.corpus import open_corpus
from tasks.streaming.stores import S3Store
from tasks.streaming.windows import Source
from tasks.training.launch import Job
from tests.corpora import make_dpixels
from tests.streams import local, rows_of, run, seeds_of, stream_of, write_small

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
URL = "s3://corpora/main/pack"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def credentials(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)


def environment(endpoint: str) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    return keys | {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}


def client() -> Any:
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)


def upload(folder: Path, url: str = URL) -> str:
    remote = client()
    remote.makedirs("corpora", exist_ok=True)
    for path in sorted(folder.iterdir()):
        remote.pipe_file(f"{url}/{path.name}", path.read_bytes())
    return url


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus on the disk and the same one in the bucket."""
    write_small(tmp_path / "pack")
    upload(tmp_path / "pack")
    return tmp_path / "pack"


def test_a_run_from_s3_has_the_rows_and_bytes_of_one_from_the_disk(
    corpus: Path, tmp_path: Path
) -> None:
    here = run(stream_of(local(corpus), tmp_path))
    there = run(stream_of(Source(open_corpus(URL, "dpixels")), tmp_path))
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(rows_of(one), rows_of(other))
        assert np.array_equal(seeds_of(one), seeds_of(other))
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a.held.s2.values, b.held.s2.values)
            assert np.array_equal(a.held.s1.values, b.held.s1.values)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda content: content[:3000] + b"?" + content[3001:], "sha256"),
        (lambda content: content[:3000], "an object of 3000 bytes"),
        (lambda content: content[:20], "an object of 20 bytes"),
        (lambda _: None, "no such object"),
    ],
)
def test_a_flipped_short_or_missing_object_is_named(
    spoil: Any, found: str, corpus: Path, tmp_path: Path
) -> None:
    remote, key = client(), f"{URL}/dpixels-00002.arrow"
    content = spoil((corpus / "dpixels-00002.arrow").read_bytes())
    if content is None:
        remote.rm_file(key)
    else:
        remote.pipe_file(key, content)
    with pytest.raises(ShardDamaged, match=f"{key}, block \\d+: expected .*; found {found}"):
        run(stream_of(Source(open_corpus(URL, "dpixels")), tmp_path))


@pytest.mark.parametrize("prefix", ["a b/c", "q?x=1", "a#b", "x[1]*", "p%20q", "ü+ñ"])
def test_a_prefix_may_have_any_characters(prefix: str, corpus: Path) -> None:
    import boto3  # type: ignore[import-untyped]  # it has no types

    for path in corpus.iterdir():
        key = f"{prefix}/{path.name}"
        boto3.client("s3").put_object(Bucket="corpora", Key=key, Body=path.read_bytes())
    assert len(open_corpus(f"s3://corpora/{prefix}", "dpixels").dpixels(3)) == 16


class Refusing(BaseHTTPRequestHandler):
    """Answers as S3 does where a session has ended: the code is that of a range behind the end."""

    def do_GET(self) -> None:
        """Refuse."""
        body = b"<Error><Code>InvalidToken</Code><Message>malformed</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        """Refuse, without a body."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_refused_request_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(StorageError, match="expected to be allowed to read"):
            S3Store(URL).read("dpixels-00000.arrow", 100, 50)
    finally:
        server.shutdown()
        server.server_close()


def test_shards_elsewhere_must_be_those_that_the_manifest_pins(
    corpus: Path, tmp_path: Path
) -> None:
    from tasks.training.inputs import open_parent

    job = Job("pretrain", {}, {"pack": str(corpus)}, str(tmp_path), "s3://corpora/main")
    assert open_parent(job, "pack", "dpixels").store.where == URL
    content = json.loads((corpus / "index.json").read_text())
    client().pipe_file(f"{URL}/index.json", json.dumps(content).encode())
    with pytest.raises(LineageError, match=f"{URL}: expected the shards that the manifest pins"):
        open_parent(job, "pack", "dpixels")


def test_a_connection_that_is_refused_at_first_heals(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)

    def later() -> None:
        time.sleep(1.0)
        server.start()  # the bucket is that of the other server: both are in this process

    thread = threading.Thread(target=later)
    thread.start()
    try:
        found = run(stream_of(Source(open_corpus(URL, "dpixels")), tmp_path), steps=3)
    finally:
        thread.join()
        server.stop()
    expected = run(stream_of(local(corpus), tmp_path), steps=3)
    assert [rows_of(parts).tolist() for parts in found] == [
        rows_of(parts).tolist() for parts in expected
    ]


def test_a_store_that_never_answers_stops_the_run_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("tasks.storing.store._WAITS_S", (0.01, 0.02))
    with pytest.raises(StorageError, match=f"{URL}: expected an answer"):
        open_corpus(URL, "dpixels")


def test_a_store_used_before_a_fork_works_in_the_child(corpus: Path) -> None:
    store = S3Store(URL)
    content = (corpus / "dpixels-00001.arrow").read_bytes()
    assert store.read("dpixels-00001.arrow", 100, 50) == content[100:150]
    child = os.fork()
    if not child:
        found = store.read("dpixels-00001.arrow", 200, 50)
        os._exit(0 if found == content[200:250] else 1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert store.read("dpixels-00001.arrow", 300, 50) == content[300:350]


def test_a_spawned_process_reads_the_same(corpus: Path) -> None:
    assert len(open_corpus(URL, "dpixels").dpixels(3)) == 16
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(first_id, (URL, 3))
    assert found == int(open_corpus(str(corpus), "dpixels").dpixels(3).pixel_id[0])


def first_id(url: str, block: int) -> int:
    """Return the first pixel id of a block, in another process."""
    return int(open_corpus(url, "dpixels").dpixels(block).pixel_id[0])


MEMORY = """
import json, sys
from pathlib import Path
from tasks.streaming.corpus import open_corpus
from tasks.streaming.windows import Source
from tests.streams import stream_of

url, steps, work = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
settings = {"batch_size": 1024, "lanes": 4, "window_blocks": 3, "steps": steps}
stream = stream_of(Source(open_corpus(url, "dpixels")), work, **settings)
seen, largest = 0, 0
for step in range(steps):
    parts = stream.parts(step)
    seen += sum(len(part.at) for part in parts)
    largest = max(largest, *(part.held.nbytes for part in parts))
stream.close()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seen": seen, "window": largest, "peak": int(peak.split()[1]) * 1024}))
"""


def write_large(folder: Path) -> int:
    """Write a corpus of 130 blocks of 2.4 MB; return its bytes."""
    folder.mkdir()
    block = make_dpixels(1000, seed=3, least=40, most=90)
    shards: list[tuple[ShardEntry, list[Block]]] = []
    for number in range(10):
        with ShardWriter(folder / f"dpixels-{number:05d}.arrow", DPIXEL_SCHEMA) as writer:
            for _ in range(13):
                writer.add(encode_dpixels(block))
            shards.append((writer.finish(), writer.blocks))
    write_index(folder, "dpixels", 1000, shards, {})
    return sum(entry.size for entry, _ in shards)


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_process_needs_a_few_windows_of_memory_whatever_the_corpus(
    where: str, endpoint: str, tmp_path: Path
) -> None:
    size = write_large(tmp_path / "pack")
    address = str(tmp_path / "pack") if where == "disk" else upload(tmp_path / "pack", URL + "-2")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, address, "126", str(tmp_path)],
        env={**os.environ, **environment(endpoint)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seen"] == 126 * 1024
    assert size > 2.5e8
    assert found["window"] < 4e7
    assert found["peak"] < 5e8, found
