"""What a damaged remote or checkout does to DVC, and that the mend which is named makes it whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.storing.report import Report
from tasks.verify import verify_local, verify_remote
from tasks.workspace import Workspace
from tests.project import output_digests, run
from tests.stored_project import DVC, FORGED, INDEX, MODEL, SHARD, Stored, found, key_of, verify

pytestmark = pytest.mark.slow


def test_a_pull_into_an_empty_cache_gives_the_bytes_that_were_pushed(stored: Stored) -> None:
    expected = output_digests(stored.root)
    for name in (".dvc/cache", "artifacts", "data"):
        shutil.rmtree(stored.root / name)
    run(stored.root, *DVC, "pull", "-q")
    assert output_digests(stored.root) == expected
    assert json.loads(verify(stored.root, "--json"))["whole"] is True


def test_dvc_refuses_to_pull_what_is_damaged_but_does_not_name_it(stored: Stored) -> None:
    stored.damage(SHARD)
    for name in (".dvc/cache", "artifacts"):
        shutil.rmtree(stored.root / name)
    printed = run(stored.root, *DVC, "pull", code=1)
    assert "Checkout failed for following targets:\nartifacts/pack\n" in printed
    assert not (stored.root / SHARD).exists()
    # Without the setting that .dvc/config has, the same pull succeeds with wrong bytes.
    run(stored.root, *DVC, "config", "remote.store.verify", "false")
    shutil.rmtree(stored.root / ".dvc" / "cache")
    run(stored.root, *DVC, "pull", "-q")
    assert "up to date" in run(stored.root, *DVC, "status")
    local = verify_local(Workspace(stored.root))
    assert found(local) == [("corrupted", SHARD)] * 2


def test_what_was_never_pushed_needs_a_push_alone(stored: Stored) -> None:
    for key in stored.keys:
        stored.bucket.rm_file(key)
    report = stored.verify("data.dvc")
    assert {fault.kind for fault in report.faults} == {"missing"}
    assert report.mend.startswith("`dvc push`; the cache of this machine has the right bytes of 4")
    run(stored.root, *DVC, "push", "-q", "data.dvc")
    assert stored.verify("data.dvc").faults == []


def cut(stored: Stored) -> None:
    stored.write(MODEL, stored.read(MODEL)[:-1])


DAMAGES: dict[str, Callable[[Stored], None]] = {
    "flipped": lambda stored: stored.damage(SHARD),
    "cut": cut,
    "missing": lambda stored: stored.remove("artifacts/pack/empty.txt"),
    "forged": lambda stored: stored.write(INDEX, FORGED),
    "raw": lambda stored: stored.damage("data/tile-2/bands.npy"),
    "listing": lambda stored: stored.damage("artifacts/pack"),
}


@pytest.mark.parametrize("names", [("missing",), tuple(DAMAGES)], ids="+".join)
def test_after_quarantine_a_push_makes_the_remote_whole(
    stored: Stored, names: tuple[str, ...]
) -> None:
    for name in names:
        DAMAGES[name](stored)
    before = {stored.bucket.cat_file(key) for key in stored.keys}
    assert len(stored.verify(quarantine=True).faults) == len(names)
    run(stored.root, *DVC, "push", "-q")
    assert stored.verify().faults == []
    # Nothing was lost: what was there is there still, in its place or in quarantine.
    assert before <= {stored.bucket.cat_file(key) for key in stored.keys}


def test_without_quarantine_a_push_takes_the_damaged_object_for_present(stored: Stored) -> None:
    stored.damage(SHARD)
    assert "Everything is up to date" in run(stored.root, *DVC, "push")
    assert found(stored.verify()) == [("corrupted", SHARD)]
    # The reason for moving listings too: an entry alone is not uploaded again.
    stored.remove(SHARD)
    assert "Everything is up to date" in run(stored.root, *DVC, "push")


@pytest.mark.usefixtures("pushed")
def test_the_whole_chain_is_few_objects_and_every_one_is_whole(
    finished_project: Path, tmp_path: Path
) -> None:
    project = Workspace(tmp_path / "chain")
    shutil.copytree(finished_project, project.root, symlinks=True)
    url = "s3://verified-store/chain"
    run(project.root, *DVC, "remote", "modify", "--local", "store", "url", url)
    run(project.root, *DVC, "push", "-q")
    assert "nothing wrong" in verify(project.root)
    counts = json.loads((project.output("pack") / "manifest.json").read_text())["counts"]
    shards = list(project.output("pack").glob("dpixels-*.arrow"))
    assert counts["dpixels"] > 100 * len(shards)
    # Beside the shards some files that speak of all of them, never one for each tile or d-pixel.
    assert verify_remote(project, ["artifacts/pack"]).objects <= len(shards) + 8


def test_this_checkout_is_held_against_manifests_and_names(stored: Stored) -> None:
    workspace = Workspace(stored.root)
    assert verify_local(workspace).faults == []
    flip(stored.root / MODEL)
    flip(stored.root / ".dvc" / "cache" / key_of(stored.root, "data/tile-0/bands.npy"))
    (stored.root / SHARD).unlink()
    (stored.root / "artifacts" / "pack" / "more.txt").write_text("more")
    expected = {
        ("corrupted", MODEL),
        ("corrupted", "data/tile-0/bands.npy"),
        ("missing", SHARD),
        ("extra", "artifacts/pack/more.txt"),
    }
    report = verify_local(workspace)
    assert set(found(report)) == expected
    assert len(report.faults) == len(expected)
    mend(stored.root, report)
    assert verify_local(workspace).faults == []


def test_what_was_never_pulled_is_no_fault_of_the_checkout(stored: Stored) -> None:
    for name in (".dvc/cache", "artifacts"):
        shutil.rmtree(stored.root / name)
    report = verify_local(Workspace(stored.root))
    assert report.faults == []
    assert any("artifacts/pack: not here" in note for note in report.notes)


def test_without_a_cache_the_manifest_alone_finds_the_damage(stored: Stored) -> None:
    shutil.rmtree(stored.root / ".dvc" / "cache")
    flip(stored.root / SHARD)
    assert found(verify_local(Workspace(stored.root))) == [("corrupted", SHARD)]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.unlink()
    path.write_bytes(content)


def mend(root: Path, report: Report) -> None:
    """Do what the report says: delete what is named, restore it."""
    for fault in report.faults:
        (Path(fault.store) / fault.wanted.key).unlink(missing_ok=True)
    run(root, *DVC, "fetch", "-q")
    run(root, *DVC, "checkout", "-q")
