import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.embed import embed_tiles
from tasks.embedding.report import Options
from tests.embedding import (
    products,
    records,
    tile_arrays,
    write_arrays,
    write_student,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_student(tmp_path_factory.mktemp("student") / "s.pt"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three small tiles, one of them of a year."""
    for seed, key in enumerate(("2021/b", "a", "c")):
        write_arrays(tmp_path / "archive" / key, tile_arrays(seed=seed))
    return tmp_path / "archive"


def test_finished_tiles_are_kept_as_they_are(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    first = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    before = products(tmp_path / "out")
    again = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    assert (first.embedded, first.kept) == (["2021/b", "a", "c"], [])
    assert (again.embedded, again.kept, again.dpixels) == ([], ["2021/b", "a", "c"], 0)
    assert products(tmp_path / "out") == before
    assert sorted(records(tmp_path / "out")) == ["2021/b", "a", "c"]
    assert not (tmp_path / "out" / ".unfinished").exists()


def _cut(out: Path) -> None:
    (out / "a.npy").write_bytes((out / "a.npy").read_bytes()[:-1])


def _flip(out: Path) -> None:
    content = bytearray((out / "a.npy").read_bytes())
    content[-2] ^= 1
    (out / "a.npy").write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": _cut,
    "flipped bit": _flip,
    "file removed": lambda out: (out / "a_observations.npy").unlink(),
    "record removed": lambda out: (out / "a.json").unlink(),
    "record cut": lambda out: (out / "a.json").write_bytes((out / "a.json").read_bytes()[:99]),
    "record empty": lambda out: (out / "a.json").write_bytes(b""),
    "record of no object": lambda out: (out / "a.json").write_text("[]"),
    "record without files": lambda out: (out / "a.json").write_text("{}"),
    "record of no files": lambda out: (out / "a.json").write_text(
        json.dumps(json.loads((out / "a.json").read_text()) | {"files": {}})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_output_is_made_again(
    damage: str, checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    embed_tiles(checkpoint, archive, out, Options(128))
    expected = products(out)
    DAMAGES[damage](out)
    report = embed_tiles(checkpoint, archive, out, Options(128))
    assert (report.embedded, report.kept) == (["a"], ["2021/b", "c"])
    assert products(out) == expected


def test_changed_input_makes_that_tile_again(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    np.save(archive / "a" / "bands.npy", tile_arrays(seed=9)["bands"])
    report = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    assert (report.embedded, report.kept) == (["a"], ["2021/b", "c"])
    embed_tiles(checkpoint, archive, tmp_path / "new", Options(128))
    assert products(tmp_path / "out") == products(tmp_path / "new")


@pytest.mark.parametrize(
    ("seed", "options"),
    [(2, Options(128)), (1, Options(64)), (1, Options(128, as_codes=True))],
    ids=["checkpoint", "dim", "codes"],
)
def test_changed_way_makes_all_again_there_and_back(
    seed: int, options: Options, archive: Path, tmp_path: Path
) -> None:
    first = open_checkpoint(write_student(tmp_path / "1.pt"))
    second = open_checkpoint(write_student(tmp_path / "other.pt", seed=seed))
    out = tmp_path / "out"
    embed_tiles(first, archive, out, Options(128))
    before = products(out)
    assert embed_tiles(second, archive, out, options).kept == []
    embed_tiles(second, archive, tmp_path / "new", options)
    assert products(out) == products(tmp_path / "new")
    assert embed_tiles(first, archive, out, Options(128)).kept == []
    assert products(out) == before


def test_rerun_of_int8_says_what_an_uninterrupted_run_says(archive: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(write_student(tmp_path / "s.pt"), precision="int8")
    whole = embed_tiles(opened, archive, tmp_path / "out", Options(128))
    expected = products(tmp_path / "out")
    (tmp_path / "out" / "c.json").unlink()
    again = embed_tiles(opened, archive, tmp_path / "out", Options(128))
    assert (again.kept, again.embedded) == (["2021/b", "a"], ["c"])
    assert again.fidelity == whole.fidelity
    assert products(tmp_path / "out") == expected


def test_forced_tile_is_kept_by_force_only(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    codes = np.load(archive / "a" / "sar_ascending.npy")
    codes[0, 1, 1] = -5
    np.save(archive / "a" / "sar_ascending.npy", codes)
    out = tmp_path / "out"
    assert list(embed_tiles(checkpoint, archive, out, Options(128)).failed) == ["a"]
    forced = embed_tiles(checkpoint, archive, out, Options(128, force=True))
    assert (forced.embedded, forced.kept) == (["a"], ["2021/b", "c"])
    assert {key: record["forced"] for key, record in records(out).items()} == {
        **{"2021/b": False, "c": False},
        "a": True,
    }
    assert embed_tiles(checkpoint, archive, out, Options(128, force=True)).embedded == []
    assert list(embed_tiles(checkpoint, archive, out, Options(128)).failed) == ["a"]


def test_record_cut_by_a_kill_is_swept_by_the_next_run(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    embed_tiles(checkpoint, archive, tmp_path / "new", Options(128))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a.json.4194999.part").write_text("{")  # above the largest process id
    embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    assert products(tmp_path / "out") == products(tmp_path / "new")


def test_failed_tile_is_done_by_a_rerun_once_it_is_mended(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    good = (archive / "a" / "doys.npy").read_bytes()
    (archive / "a" / "doys.npy").write_bytes(b"garbage")
    first = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    assert (first.embedded, list(first.failed)) == (["2021/b", "c"], ["a"])
    assert sorted(records(tmp_path / "out")) == ["2021/b", "c"]
    (archive / "a" / "doys.npy").write_bytes(good)
    again = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    assert (again.embedded, again.kept, again.failed) == (["a"], ["2021/b", "c"], {})
