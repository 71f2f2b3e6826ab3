"""Objects are read in blocks and with patience, and nothing that names them is trusted."""

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from tasks.errors import DataError, StorageError
from tasks.manifest import Manifest
from tasks.storing import store as store_module
from tasks.storing.check import check
from tasks.storing.objects import (
    Folder,
    Wanted,
    key_of,
    manifest_digests,
    merged,
    parse_manifest,
    read_folder,
)
from tasks.storing.pins import Pin, inner_path
from tasks.storing.store import BLOCK_BYTES, Digests, Store, open_folder
from tasks.workspace import Workspace


class Unsteady(LocalFileSystem):  # type: ignore[misc] # fsspec ships no types
    """A file system that fails, or flips a bit, the first times that it is read."""

    cachable = False

    def __init__(
        self, *, failures: int = 0, flips: int = 0, error: Exception | None = None
    ) -> None:
        super().__init__()
        self.failures, self.flips = failures, flips
        self.error = error or ConnectionResetError("connection reset")

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        if self.failures:
            self.failures -= 1
            raise self.error
        content = bytearray(super().cat_file(path, start=start, end=end))
        if self.flips:
            self.flips -= 1
            content[0] ^= 1
        return bytes(content)


def unsteady(root: Path, **settings: Any) -> Store:
    passing = (ConnectionError,)
    return Store(Unsteady(**settings), str(root), "far away", outside=passing, passing=passing)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_WAITS_S", (0.0,) * 5)


def put(root: Path, content: bytes, **known: Any) -> Wanted:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    path = root / key_of(md5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Wanted(key_of(md5), (f"file-{md5[:4]}",), md5, **known)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_reading_in_blocks_gives_the_digest_of_the_whole(tmp_path: Path, size: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "object").write_bytes(content)
    expected = Digests(
        size,
        hashlib.md5(content, usedforsecurity=False).hexdigest(),
        hashlib.sha256(content).hexdigest(),
    )
    assert open_folder(str(tmp_path)).digest("object", size, sha256=True) == expected


def test_memory_is_bounded_by_blocks_not_by_objects(tmp_path: Path) -> None:
    size = 12 * BLOCK_BYTES
    with (tmp_path / "object").open("wb") as stream:
        stream.truncate(size)
    tracemalloc.start()
    try:
        open_folder(str(tmp_path)).digest("object", size)
        assert tracemalloc.get_traced_memory()[1] < 3 * BLOCK_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("impatient")
def test_what_time_heals_is_tried_again_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = put(tmp_path, b"good")
    done = check(unsteady(tmp_path, failures=3), [wanted], label="verify", workers=1)
    assert not done.faults
    assert capsys.readouterr().out.count("connection reset; trying again") == 3


@pytest.mark.usefixtures("impatient")
def test_a_store_that_never_answers_ends_the_run_by_name(tmp_path: Path) -> None:
    wanted = put(tmp_path, b"good")
    with pytest.raises(StorageError, match=r"far away: .* found ConnectionResetError"):
        check(unsteady(tmp_path, failures=99), [wanted], label="verify", workers=2)


def test_a_refused_object_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    first, second = put(tmp_path, b"one"), put(tmp_path, b"two")
    store = unsteady(tmp_path, failures=1, error=PermissionError("denied"))
    done = check(store, [first, second], label="verify", workers=1)
    assert [(fault.kind, fault.wanted) for fault in done.faults] == [("unreadable", first)]
    assert done.read == 2


def test_a_fault_of_the_way_is_not_a_fault_of_the_object(tmp_path: Path) -> None:
    wanted = put(tmp_path, b"good")
    once = check(unsteady(tmp_path, flips=1), [wanted], label="verify", workers=1)
    assert not once.faults
    twice = check(unsteady(tmp_path, flips=2), [wanted], label="verify", workers=1)
    assert [fault.kind for fault in twice.faults] == ["corrupted"]


def test_a_sample_reads_that_many_and_whatever_has_a_wrong_size(tmp_path: Path) -> None:
    right = [put(tmp_path, bytes([k]) * 10, size=10) for k in range(20)]
    wrong = put(tmp_path, b"cut", size=4)
    done = check(open_folder(str(tmp_path)), [*right, wrong], label="verify", workers=2, sample=5)
    assert (done.objects, done.read, done.bytes) == (21, 6, 5 * 10 + 3)
    assert [fault.wanted for fault in done.faults] == [wrong]


def test_moving_keeps_the_bytes_and_empties_the_place(tmp_path: Path) -> None:
    wanted = put(tmp_path, b"bad")
    store = open_folder(str(tmp_path))
    store.move(wanted.key, "quarantine/" + wanted.key)
    assert (tmp_path / "quarantine" / wanted.key).read_bytes() == b"bad"
    with pytest.raises(FileNotFoundError):
        store.size(wanted.key)


def test_files_of_equal_bytes_are_one_object_with_all_that_is_known() -> None:
    one = Wanted("k", ("a/x",), "m", None, frozenset({"s"}), ("list-a",))
    other = Wanted("k", ("b/x",), "m", 5, frozenset({"s"}), ("list-b",))
    expected = Wanted("k", ("a/x", "b/x"), "m", 5, frozenset({"s"}), ("list-a", "list-b"))
    assert merged([one, other]) == [expected]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x", "a\0b"])
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="a path below its folder"):
        inner_path(path, Path("dvc.lock"))


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b'{"md5": 1}',
        b'[{"md5": "00", "relpath": "x"}]',
        json.dumps([{"md5": "0" * 32, "relpath": "../x"}]).encode(),
        json.dumps([{"md5": "../" * 10 + "00", "relpath": "x"}]).encode(),
    ],
)
def test_a_listing_that_is_none_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
    path = tmp_path / key_of(md5)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_folder(Pin("data", "data.dvc", md5), [open_folder(str(tmp_path))])


def test_a_damaged_listing_is_taken_from_the_next_store(tmp_path: Path) -> None:
    content = json.dumps([{"md5": "0" * 32, "relpath": "x"}]).encode()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
    for name, found in (("far", content[:-1]), ("near", content)):
        path = tmp_path / name / key_of(md5)
        path.parent.mkdir(parents=True)
        path.write_bytes(found)
    pin = Pin("data", "data.dvc", md5)
    far, near = (open_folder(str(tmp_path / name)) for name in ("far", "near"))
    assert read_folder(pin, [far]) is None
    assert read_folder(pin, [far, near]) == Folder(pin, {"x": "0" * 32})


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"format": "other", "files": {}, "parents": {}}', b"\xff"]
)
def test_what_is_no_manifest_of_ours_says_nothing(content: bytes) -> None:
    assert parse_manifest(content) == {}


def test_a_stage_that_has_not_seen_its_new_parent_says_nothing_of_it(tmp_path: Path) -> None:
    manifest = Manifest("pretrain", "k", {}, {"pack": "s" * 64}, "c", "l", {}, {})
    content = parse_manifest(manifest.to_bytes())
    parent = Folder(Pin("artifacts/pack", "pack", "1" * 32 + ".dir"), {})

    def said(seen: str) -> dict[str, set[str]]:
        reads = {"artifacts/pack": seen * 32 + ".dir"}
        pin = Pin("artifacts/pretrain", "pretrain", "2" * 32 + ".dir", reads=reads)
        return manifest_digests(Workspace(tmp_path), [parent, Folder(pin, {}, content)])

    assert said("1") == {"artifacts/pack/manifest.json": {"s" * 64}}
    assert said("0") == {}
