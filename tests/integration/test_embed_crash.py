"""Kill ``tessera embed`` at its writes, or run it twice at once, and compare with a whole run."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.embedding.fidelity import MIN_FIDELITY
from tests.embedding import (
    command,
    is_one_line,
    products,
    records,
    run_embed,
    tile_arrays,
    write_arrays,
    write_student,
)
from tests.project import CRASH, REPOSITORY, environment
from tests.unit.test_points import few_rows, write_rows

pytestmark = pytest.mark.slow

SMALL = {"height": 5, "width": 6}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student") / "s.pt")


def _run_killed_at(write: int, *arguments: object) -> None:
    """Run the command until just before one of its writes."""
    more = {"DVC_STAGE": "cli", "CRASH_STAGE": "cli", "CRASH_AT": str(write), "PYTHONPATH": CRASH}
    run_embed(*arguments, code=-signal.SIGKILL, more=more)


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a tile of two blocks and a small one."""
    root = tmp_path_factory.mktemp("killable") / "archive"
    write_arrays(root / "a", tile_arrays(80, 80, dates=4, passes=2))
    write_arrays(root / "b", tile_arrays(**SMALL))
    return root


@pytest.fixture(scope="module")
def uninterrupted(
    killable: Path, student: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], list[str]]:
    """What a whole run publishes, and the names that its writes end in."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "count").mkdir()
    arguments = ("--checkpoint", student, "--tiles", killable, "--out", folder / "out", "--int8")
    counting = {"DVC_STAGE": "cli", "CRASH_COUNT": str(folder / "count"), "PYTHONPATH": CRASH}
    run_embed(*arguments, more=counting)
    writes = (folder / "count" / "cli").read_text().splitlines()
    return products(folder / "out"), [write.rsplit("/", 1)[-1] for write in writes]


WRITES = [
    *("journal.json", "journal.json", "a.npy", "a_observations.npy", "a_scales.npy", "a.json"),
    *("journal.json", "b.npy", "b_observations.npy", "b_scales.npy", "b.json"),
]


@pytest.mark.parametrize("at", range(1, len(WRITES) + 1), ids=lambda at: f"{at}-{WRITES[at - 1]}")
def test_killed_run_is_finished_by_a_rerun_with_the_same_bytes(
    at: int,
    killable: Path,
    student: Path,
    uninterrupted: tuple[dict[str, bytes], list[str]],
    tmp_path: Path,
) -> None:
    expected, writes = uninterrupted
    assert writes == WRITES
    out = tmp_path / "out"
    arguments = ("--checkpoint", student, "--tiles", killable, "--out", out, "--int8", "--json")
    _run_killed_at(at, *arguments)
    assert sorted(records(out)) == (["a"] if at > WRITES.index("a.json") + 1 else [])
    report = json.loads(run_embed(*arguments).stdout)
    # Behind the first block's journal that block is kept; once files are being moved, the tile is
    # made again.
    left = {2: 80 * 80 - 4096} | dict.fromkeys(range(7, 12), 0)
    assert report["dpixels"] == left.get(at, 80 * 80) + 30
    assert products(out) == expected
    assert not (out / ".unfinished").exists()


def test_killed_int8_run_is_finished_with_the_same_bytes_and_fidelity(
    killable: Path, student: Path, tmp_path: Path
) -> None:
    precision = ("--precision", "int8", "--json")
    arguments = ("--checkpoint", student, "--tiles", killable, *precision, "--out")
    whole = json.loads(run_embed(*arguments, tmp_path / "whole").stdout)
    _run_killed_at(2, *arguments, tmp_path / "out")
    again = json.loads(run_embed(*arguments, tmp_path / "out").stdout)
    assert again["dpixels"] == 80 * 80 - 4096 + 30
    assert again["fidelity"] == whole["fidelity"]
    assert min(tile["mean"] for tile in whole["fidelity"].values()) > MIN_FIDELITY
    assert products(tmp_path / "out") == products(tmp_path / "whole")


@pytest.mark.parametrize("change", ["--dim", "checkpoint", "input"])
def test_unfinished_tile_starts_anew_when_something_has_changed(
    change: str, killable: Path, student: Path, tmp_path: Path
) -> None:
    archive = shutil.copytree(killable, tmp_path / "archive")
    other = write_student(tmp_path / "other.pt", seed=2)

    def arguments(out: Path, changed: bool) -> tuple[object, ...]:
        used = other if changed and change == "checkpoint" else student
        dim = 16 if changed and change == "--dim" else 128
        return ("--checkpoint", used, "--tiles", archive, "--out", out, "--dim", dim, "--json")

    out = tmp_path / "out"
    _run_killed_at(2, *arguments(out, False))
    assert (out / ".unfinished" / "a" / "journal.json").is_file()
    if change == "input":
        np.save(archive / "a" / "masks.npy", tile_arrays(80, 80, dates=4, seed=5)["masks"])
    report = json.loads(run_embed(*arguments(out, True)).stdout)
    assert report["dpixels"] == 80 * 80 + 30
    run_embed(*arguments(tmp_path / "new", True))
    assert products(out) == products(tmp_path / "new")


@pytest.mark.parametrize("write", ["journal.json", "a.npy", "a_observations.npy", "a.json"])
def test_killed_run_over_older_output_leaves_no_record_that_does_not_hold(
    write: str, killable: Path, student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("--checkpoint", student, "--tiles", killable, "--out", out)
    run_embed(*arguments)
    before = records(out)
    _run_killed_at(1 + WRITES.index(write), *arguments, "--int8")
    left = records(out)
    assert left["b"] == before["b"]
    assert left.get("a", before["a"]) == before["a"]
    assert ("a" in left) == (write == "journal.json")
    run_embed(*arguments, "--int8")
    run_embed(*arguments[:-1], tmp_path / "new", "--int8")
    assert products(out) == products(tmp_path / "new")


def test_second_command_on_the_same_out_is_refused_by_name(
    killable: Path, student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("--checkpoint", student, "--tiles", killable, "--out", out, "--json")
    first = subprocess.Popen(
        command(*arguments),
        cwd=REPOSITORY,
        env=environment(REPOSITORY),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / ".unfinished" / "a").is_dir():
        assert first.poll() is None
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)  # so that it is at work however slow the second one is
    try:
        second = run_embed(*arguments, code=1)
    finally:
        first.send_signal(signal.SIGCONT)
    printed, said = first.communicate()
    assert second.stderr.startswith("tessera: StageBusy: ")
    assert str(out) in second.stderr
    assert is_one_line(second.stderr)
    assert first.returncode == 0, said
    assert json.loads(printed)["embedded"] == ["a", "b"]
    assert sorted(records(out)) == ["a", "b"]


def test_killed_points_command_leaves_the_older_output(student: Path, tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "p.parquet", few_rows()), tmp_path / "out.parquet"
    out.write_bytes(b"older")
    arguments = ("--checkpoint", student, "--points", source, "--out", out)
    _run_killed_at(1, *arguments)
    assert out.read_bytes() == b"older"
    run_embed(*arguments)
    assert pq.read_table(out)["pixel_id"].to_pylist() == ["p0", "p1", "p2", "p3", "p4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "p.parquet"]
