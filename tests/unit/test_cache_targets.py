"""Targets: the teacher's embedding of each row, in the blocks of the d-pixels, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.architecture import StudentConfig
from models.bands import NORMALISATIONS
from models.buckets import ladder
from models.encode import Encoder
from models.initialisation import initialise
from models.student import Student
from tasks.cache_targets import write_targets
from tasks.errors import ShardDamaged
from tasks.shards.index import write_index
from tasks.shards.records import entry_of
from tasks.streaming.corpus import open_corpus
from tasks.streaming.windows import Source
from tests.corpora import make_dpixels, write_corpus
from tests.streams import damage_block

ROWS, BLOCK_ROWS = 210, 16


@pytest.fixture(scope="module")
def teacher() -> Encoder:
    student = Student(StudentConfig(latent=4, layers=1, heads=2, feedforward=16))
    initialise(student, seed=1)
    return Encoder(student, NORMALISATIONS["tessera-v2-student"], ladder(16, 64))


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    dpixels = make_dpixels(ROWS, seed=5)
    write_corpus(tmp_path / "pack", dpixels, block_rows=BLOCK_ROWS, shard_blocks=5)
    return tmp_path / "pack"


def write_all(teacher: Encoder, pack: Path, out: Path) -> None:
    """Write the targets of all shards, and their index."""
    out.mkdir()
    corpus, shards = open_corpus(str(pack), "dpixels"), []
    for number in range(len(corpus.index.shards)):
        path = out / f"targets-{number:05d}.arrow"
        write_targets(teacher, corpus, number, path, workers=2)
        shards.append(entry_of(json.loads(path.with_suffix(".json").read_text())))
    write_index(out, "targets", BLOCK_ROWS, shards, {"dim": teacher.dim})


@pytest.mark.parametrize("together", [1, 3, 100])
def test_each_row_has_its_embedding_in_the_block_of_its_dpixel(
    together: int, teacher: Encoder, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.cache_targets.BLOCK_DPIXELS", together * BLOCK_ROWS)
    write_all(teacher, pack, tmp_path / "out")
    dpixels, targets = (
        open_corpus(str(tmp_path / name), kind)
        for name, kind in (("pack", "dpixels"), ("out", "targets"))
    )
    Source(dpixels, targets)  # refuses other rows or blocks
    assert targets.num_blocks == dpixels.num_blocks == 14
    expected = teacher.encode(make_dpixels(ROWS, seed=5))
    for number in range(targets.num_blocks):
        ids, found = targets.targets(number)
        assert np.array_equal(ids, dpixels.dpixels(number).pixel_id)
        rows = slice(number * BLOCK_ROWS, number * BLOCK_ROWS + len(ids))
        np.testing.assert_allclose(found, expected[rows], atol=4e-3)


def test_a_shard_that_cannot_be_read_leaves_no_record(
    teacher: Encoder, pack: Path, tmp_path: Path
) -> None:
    shard = damage_block(pack, 7)
    corpus, path = open_corpus(str(pack), "dpixels"), tmp_path / "targets-00001.arrow"
    with pytest.raises(ShardDamaged, match=f"{shard}, block 7"):
        write_targets(teacher, corpus, 1, path, workers=1)
    assert not path.exists()
    assert not path.with_suffix(".json").exists()


def test_writing_again_gives_the_same_bytes(teacher: Encoder, pack: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_all(teacher, pack, tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
