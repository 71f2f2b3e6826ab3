"""A small project with stored outputs, and an S3 endpoint on loopback to store them in.

Real git and DVC; the stages copy folders that the builder has made, each sealed by a real manifest.
``pack`` holds shards and ``pretrain`` has read it; a file of ``pack`` is one half of a published
pair of different bytes with equal MD5 (Wang and Yu, 2005).
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.manifest import MANIFEST, Manifest, describe_files
from tasks.storing.report import Report
from tasks.verify import verify_remote
from tasks.workspace import Workspace
from tests.project import REPOSITORY, commit, run

DVC = (sys.executable, "-m", "dvc")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
}
COLLIDING = bytes.fromhex(
    "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89"
    "55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b"
    "d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
)
FORGED = bytes.fromhex(
    "d131dd02c5e6eec4693d9a0698aff95c2fcab50712467eab4004583eb8fb7f89"
    "55ad340609f4b30283e4888325f1415a085125e8f7cdc99fd91dbd7280373c5b"
    "d8823e3156348f5bae6dacd436c919c6dd53e23487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080280d1ec69821bcb6a8839396f965ab6ff72a70"
)
SHARD = "artifacts/pack/shard-00001.arrow"
INDEX = "artifacts/pack/index.json"
MODEL = "artifacts/pretrain/model.safetensors"
URL = "s3://verified-store/dvc"

_GRAPH = """\
stages:
  pack:
    cmd:
      - mkdir -p artifacts/provenance
      - cp -r made/pack artifacts/pack
      - echo 1 > artifacts/provenance/pack.json
    deps: [made/pack]
    outs: [artifacts/pack, artifacts/provenance/pack.json]
  pretrain:
    cmd:
      - cp -r made/pretrain artifacts/pretrain
      - echo 1 > curves.csv
    deps: [made/pretrain, artifacts/pack]
    outs:
      - artifacts/pretrain
      - curves.csv:
          cache: false
"""


@dataclass(frozen=True)
class Stored:
    """A project whose outputs are in a bucket, and the bucket as another program sees it."""

    root: Path
    bucket: Any

    @property
    def keys(self) -> list[str]:
        found: list[str] = self.bucket.find(URL)
        return found

    def where(self, path: str) -> str:
        return f"{URL}/{key_of(self.root, path)}"

    def read(self, path: str) -> bytes:
        content: bytes = self.bucket.cat_file(self.where(path))
        return content

    def write(self, path: str, content: bytes) -> None:
        self.bucket.pipe_file(self.where(path), content)

    def damage(self, path: str) -> None:
        content = bytearray(self.read(path))
        content[len(content) // 2] ^= 1
        self.write(path, bytes(content))

    def remove(self, path: str) -> None:
        self.bucket.rm_file(self.where(path))

    def verify(self, *targets: str, **options: Any) -> Report:
        return verify_remote(Workspace(self.root), targets, **options)


def found(report: Report) -> list[tuple[str, str]]:
    """Return the kind of each fault and the first file that it is about."""
    return [(fault.kind, fault.wanted.files[0]) for fault in report.faults]


def make_stored_project(root: Path) -> Path:
    """Build the project, run its stages, and leave the remote to the test."""
    root.mkdir(parents=True)
    _write(root / "data", {f"tile-{k}/bands.npy": bytes([k]) * 5000 for k in range(3)})
    make_outputs(root)
    (root / "dvc.yaml").write_text(_GRAPH)
    (root / "params.yaml").write_text("{}\n")
    (root / ".gitignore").write_text(".tessera/\n")
    run(root, "git", "init", "-q", "-b", "main")
    run(root, *DVC, "init", "-q")
    run(root, *DVC, "add", "-q", "data")
    run(root, *DVC, "repro", "-q")
    commit(root, "Start")
    return root


def make_outputs(root: Path, *, seed: int = 7) -> None:
    """Make what the stages copy; equal bytes in two folders share one object."""
    shutil.rmtree(root / "made", ignore_errors=True)
    shards = {f"shard-{k:05}.arrow": bytes([k, seed]) * 40_000 for k in range(4)}
    _write(root / "made" / "pack", shards | {"index.json": COLLIDING, "empty.txt": b""})
    pack = _seal(root / "made" / "pack", "pack", {})
    model = {"model.safetensors": b"w" * 3000, "copy.arrow": shards["shard-00002.arrow"]}
    _write(root / "made" / "pretrain", model)
    _seal(root / "made" / "pretrain", "pretrain", {"pack": pack})


def verify(root: Path, *arguments: str, code: int = 0, **more: str) -> str:
    """Run ``tessera verify`` in the project and return what it printed."""
    command = (sys.executable, "-m", "tasks.cli", "verify", *arguments)
    return run(root, *command, code=code, PYTHONPATH=str(REPOSITORY), **more)


def key_of(root: Path, path: str) -> str:
    """Return the key of a file's object, or of a folder's listing, by DVC's own rule."""
    if (root / path).is_file():
        name = md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()
    else:
        name = next(out["md5"] for out in _outs(root) if out["path"] == path)
    return f"files/md5/{name[:2]}/{name[2:]}"


@contextmanager
def s3_server(port: int = 0) -> Iterator[str]:
    """Serve S3 on loopback and yield its address; what is stored outlives it in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    host, bound = server.get_host_and_port()
    try:
        yield f"http://{host}:{bound}"
    finally:
        server.stop()


def _outs(root: Path) -> Iterator[Mapping[str, Any]]:
    yaml = YAML(typ="safe")
    for stage in yaml.load((root / "dvc.lock").read_text())["stages"].values():
        yield from stage["outs"]
    yield from yaml.load((root / "data.dvc").read_text())["outs"]


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _seal(folder: Path, stage: str, parents: Mapping[str, str]) -> str:
    files = describe_files(folder)
    manifest = Manifest(stage, "k", {}, dict(parents), "c", "l", {}, files)
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return sha256(manifest.to_bytes()).hexdigest()
