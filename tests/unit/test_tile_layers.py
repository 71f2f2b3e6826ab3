import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.embedding.blocks import Embedded
from tasks.embedding.tile_layers import TileLayers
from tasks.errors import DataError


def _layers(folder: Path, *, identity: str = "i") -> TileLayers:
    region = np.ones((2, 3), bool)
    return TileLayers(folder, "t", region, dim=16, as_codes=True, identity=identity)


def _embedded(rows: list[int]) -> Embedded:
    random = np.random.default_rng(rows[0])
    vectors = random.standard_normal((len(rows), 128))
    vectors = (vectors - vectors.mean(1, keepdims=True)) / vectors.std(1, keepdims=True)
    counts = np.ones((len(rows), 3), np.uint16)
    return Embedded(np.array(rows), vectors.astype(np.float32), counts)


def test_same_work_goes_on_behind_the_last_block(tmp_path: Path) -> None:
    whole = _layers(tmp_path / "whole")
    for rows in ([0, 1, 2], [3, 4, 5]):
        whole.put(_embedded(rows))
    whole.finish()
    _layers(tmp_path / "cut").put(_embedded([0, 1, 2]))
    again = _layers(tmp_path / "cut")
    assert again.num_blocks == 1
    again.put(_embedded([3, 4, 5]))
    again.finish()
    assert [path.read_bytes() for path in whole.paths] == [p.read_bytes() for p in again.paths]
    assert not (tmp_path / "cut" / "journal.json").exists()


def test_record_cut_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    _layers(tmp_path / "w").put(_embedded([0, 1, 2]))
    code = """
import os, pathlib, sys, tasks.files
os.replace = lambda *_: os.kill(os.getpid(), 9)
tasks.files.write_json(pathlib.Path(sys.argv[1]), {})
"""
    killed = subprocess.run([sys.executable, "-c", code, tmp_path / "w" / "tile.json"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "w").glob(".tile.json.*"))
    again = _layers(tmp_path / "w")
    assert again.num_blocks == 1
    again.finish()
    assert sorted((tmp_path / "w").iterdir()) == again.paths


def test_other_work_starts_anew(tmp_path: Path) -> None:
    _layers(tmp_path / "w").put(_embedded([0, 1, 2]))
    other = _layers(tmp_path / "w", identity="another")
    assert other.num_blocks == 0
    assert not other.observations.any()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"blocks": 1}', '{"identity": "i"}'])
def test_damaged_journal_means_to_start_anew(content: str, tmp_path: Path) -> None:
    _layers(tmp_path / "w").put(_embedded([0, 1, 2]))
    (tmp_path / "w" / "journal.json").write_text(content)
    assert _layers(tmp_path / "w").num_blocks == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.embedding.__imul__(40), "expected a scale in"),
        (lambda e: e.embedding.__imul__(0), "expected a scale in"),
        (lambda e: e.embedding[1].fill(np.nan), "observations where there is an embedding"),
        (lambda e: e.observations[1].fill(0), "observations where there is an embedding"),
    ],
)
def test_block_that_is_no_embedding_is_refused_with_its_pixel(
    change: Callable[[Embedded], None], message: str, tmp_path: Path
) -> None:
    block = _embedded([3, 4, 5])
    change(block)
    layers = _layers(tmp_path / "w")
    with pytest.raises(DataError, match=rf"tile t, pixel row 1 column [01]: .*{message}"):
        layers.put(block)
    assert _layers(tmp_path / "w").num_blocks == 0
