"""`tessera verify` against a real S3 endpoint: what is missing or damaged is named."""

import shutil
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import pytest

from tasks.errors import DataError, ParamsError
from tasks.storing.pins import read_pins
from tasks.workspace import Workspace
from tests.project import environment, run
from tests.stored_project import (
    DVC,
    FORGED,
    INDEX,
    MODEL,
    SHARD,
    Stored,
    found,
    key_of,
    make_outputs,
    s3_server,
    verify,
)
from tests.toy_project import free_ports

pytestmark = pytest.mark.slow


def test_everything_that_is_stored_is_read_and_nothing_is_wrong(stored: Stored) -> None:
    report = stored.verify()
    assert report.faults == []
    assert report.mend == ""
    # The bucket is listed here by another program: DVC wrote it, and nothing else.
    assert report.objects == report.read == len(stored.keys)
    assert report.bytes == sum(stored.bucket.size(key) for key in stored.keys)


def test_a_flipped_bit_is_named_by_file_and_key_and_costs_the_exit_code(stored: Stored) -> None:
    stored.damage(SHARD)
    printed = verify(stored.root, code=1)
    assert f"x corrupted  {SHARD}\n" in printed
    assert stored.where(SHARD) in printed
    assert "1 corrupted" in printed
    report = stored.verify()
    assert printed.strip() == report.render()
    (fault,) = report.to_json()["faults"]
    assert (fault["files"], fault["key"]) == ([SHARD], key_of(stored.root, SHARD))
    assert (
        fault["found"]["size"] == fault["expected"]["size"] == (stored.root / SHARD).stat().st_size
    )
    assert fault["found"]["md5"] != fault["expected"]["md5"]
    assert fault["good_here"] is True


def test_missing_objects_are_named(stored: Stored) -> None:
    paths = {SHARD, "data/tile-1/bands.npy", "artifacts/provenance/pack.json"}
    for path in paths:
        stored.remove(path)
    assert set(found(stored.verify())) == {("missing", path) for path in paths}


def test_a_truncated_object_is_named_with_both_sizes(stored: Stored) -> None:
    whole = stored.read(MODEL)
    stored.write(MODEL, whole[:-1])
    report = stored.verify()
    assert found(report) == [("corrupted", MODEL)]
    assert f"{len(whole):,} bytes" in report.render()
    assert f"{len(whole) - 1:,} bytes" in report.render()


def test_a_damaged_listing_is_named_and_its_files_are_still_read(stored: Stored) -> None:
    stored.damage("artifacts/pack")
    stored.damage(SHARD)
    expected = [("corrupted", "artifacts/pack/"), ("corrupted", SHARD)]
    assert found(stored.verify()) == expected


def test_a_damaged_listing_without_another_copy_hides_files_and_says_so(stored: Stored) -> None:
    stored.damage("artifacts/pack")
    shutil.rmtree(stored.root / ".dvc" / "cache")
    report = stored.verify()
    assert found(report) == [("corrupted", "artifacts/pack/")]
    assert any(note.startswith("artifacts/pack: files not looked at") for note in report.notes)
    assert "right bytes of 0 of 1; push the rest from a machine" in report.mend


def test_a_forgery_with_the_right_md5_is_named(stored: Stored) -> None:
    assert stored.read(INDEX) != FORGED
    names = {
        md5(content, usedforsecurity=False).digest() for content in (FORGED, stored.read(INDEX))
    }
    assert len(names) == 1
    stored.write(INDEX, FORGED)
    assert found(stored.verify()) == [("forged", INDEX)]


def test_verify_waits_for_an_endpoint_that_comes_back(stored: Stored) -> None:
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "tasks.cli", "verify", "data.dvc")
    settings = environment(stored.root, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    with subprocess.Popen(
        command,
        cwd=stored.root,
        env=settings | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout
        assert "trying again in" in child.stdout.readline()
        with s3_server(port):
            rest = child.stdout.read()
            assert child.wait() == 0, rest
    assert "nothing wrong" in rest


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["pretrain", "data.dvc"], ["artifacts/pretrain", "data"]),
        (["artifacts/provenance", "data/tile-1"], ["artifacts/provenance/pack.json", "data"]),
        ([SHARD], ["artifacts/pack"]),
        (["pack"], ["artifacts/pack", "artifacts/provenance/pack.json"]),
    ],
)
def test_targets_choose_outputs(stored: Stored, targets: list[str], expected: list[str]) -> None:
    assert [pin.path for pin in read_pins(Workspace(stored.root), targets)] == expected


def test_a_target_that_is_nothing_is_refused(stored: Stored) -> None:
    with pytest.raises(ParamsError, match=r"'nothing'.*pack, pretrain"):
        stored.verify("nothing")


def test_bytes_that_two_outputs_share_are_named_in_both(stored: Stored) -> None:
    stored.damage("artifacts/pretrain/copy.arrow")
    (fault,) = stored.verify().faults
    assert fault.wanted.files == (
        "artifacts/pack/shard-00002.arrow",
        "artifacts/pretrain/copy.arrow",
    )


def test_a_stage_that_waits_for_its_rerun_is_no_fault(stored: Stored) -> None:
    make_outputs(stored.root, seed=8)
    run(stored.root, *DVC, "repro", "-q", "pack")
    run(stored.root, *DVC, "push", "-q")
    assert stored.verify().faults == []


def test_a_lock_file_that_leads_out_of_the_project_is_refused(stored: Stored) -> None:
    lock = stored.root / "dvc.lock"
    lock.write_text(lock.read_text().replace("path: artifacts/pretrain\n", "path: ../../etc\n"))
    with pytest.raises(DataError, match="a path below its folder"):
        stored.verify()


def test_a_remote_that_cannot_be_verified_is_refused_by_name(stored: Stored) -> None:
    run(stored.root, *DVC, "remote", "add", "-q", "cloud", "gs://bucket/path")
    with pytest.raises(ParamsError, match=r"DVC remote cloud: .* found gs"):
        stored.verify(remote="cloud")
    with pytest.raises(ParamsError, match=r"one of the remotes cloud, store; found 'nowhere'"):
        stored.verify(remote="nowhere")
