"""Indexes from outside: what contradicts itself or points elsewhere is refused before it is used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.dpixel import DPixels
from tasks.errors import DataError, LineageError
from tasks.files import sha256_of, write_json
from tasks.shards.index import INDEX
from tasks.streaming.corpus import open_corpus
from tests.corpora import write_target_corpus
from tests.streams import BLOCK_ROWS, ROWS, write_small


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A corpus to spoil."""
    write_small(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def dpixels(tmp_path: Path) -> DPixels:
    """What was written there."""
    return write_small(tmp_path / "same")


def test_an_index_of_targets_without_their_width_is_refused(
    dpixels: DPixels, tmp_path: Path
) -> None:
    targets = np.zeros((len(dpixels), 4), np.float32)
    write_target_corpus(tmp_path / "t", dpixels.pixel_id, targets, block_rows=BLOCK_ROWS)
    content = json.loads((tmp_path / "t" / INDEX).read_text())
    for wrong in ({"dim": 0}, {"dim": "4"}, {"dim": None}):
        write_json(tmp_path / "t" / INDEX, content | wrong)
        with pytest.raises(DataError, match="the number of coordinates of a target"):
            open_corpus(str(tmp_path / "t"), "targets")


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_index_is_refused(content: bytes, copy: Path) -> None:
    (copy / INDEX).write_bytes(content)
    with pytest.raises(DataError, match="expected an index of format tessera-shards/2"):
        open_corpus(str(copy), "dpixels")


def test_the_index_of_another_corpus_is_refused(copy: Path) -> None:
    digest = sha256_of(copy / INDEX)
    assert len(open_corpus(str(copy), "dpixels", digest=digest)) == ROWS
    with pytest.raises(LineageError, match="the manifest pins"):
        open_corpus(str(copy), "dpixels", digest="0" * 64)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="written last; found no such file"):
        open_corpus(str(tmp_path), "dpixels")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i["shards"][0].update(name="../dpixels-00000.arrow"), "plain file names"),
        (lambda i: i["shards"][0].update(name="/etc/passwd"), "plain file names"),
        (lambda i: i["shards"][0].update(size=100), "blocks inside their shards"),
        (lambda i: i["shards"][0].update(size=2**70), "sizes of files"),
        (lambda i: i["shards"].pop(), "shards that it lists"),
        (lambda i: i["shards"][0].update(rows=81), "as many rows in a shard as in its blocks"),
        (lambda i: i.update(block_rows=8), "blocks of 8 rows"),
        (lambda i: i.update(block_rows="16"), "whole rows a block; found one of 21 blocks of '16'"),
        (lambda i: i.update(block_rows=None), "whole rows a block"),
        (lambda i: i.update(kind="targets"), "kind dpixels"),
        (lambda i: i.update(format="tessera-shards/1"), "format tessera-shards/2"),
        (lambda i: i["blocks"].update(sha256="0" * 64), "another digest"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(
    change: Callable[[Any], Any], message: str, copy: Path
) -> None:
    content = json.loads((copy / INDEX).read_text())
    change(content)
    write_json(copy / INDEX, content)
    with pytest.raises(DataError, match=message):
        open_corpus(str(copy), "dpixels")
