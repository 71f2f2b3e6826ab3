"""What is kept of a run, what is refused, and what is passed over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.training.checkpoints import sealed
from tests.corpora import make_dpixels, write_corpus
from tests.training_objectives import Planted
from tests.training_runs import Ended, run, small

pytestmark = pytest.mark.slow

SMALL = Planted()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(folder, make_dpixels(60, seed=0), block_rows=10, shard_blocks=3)
    return folder


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """An uninterrupted run, with checkpoints after 6 and 9 steps."""
    return run(tmp_path_factory.mktemp("whole"), corpus, small(), objective=SMALL)


@pytest.fixture
def copy(whole: Ended, tmp_path: Path) -> Path:
    """A copy of the finished run, to spoil."""
    work = tmp_path / "work"
    shutil.copytree(whole.work, work)
    (work / "weights").unlink()
    return work


def assert_same(found: Ended, expected: Ended) -> None:
    assert found.codes == [0], found.error
    assert found.records == expected.records
    weights = expected.weights
    assert all(np.array_equal(found.weights[name], weights[name]) for name in weights)


def test_a_manifest_says_what_the_checkpoint_is_and_belongs_to(whole: Ended) -> None:
    manifest = json.loads((whole.work / "checkpoints/step-00000006/manifest.json").read_text())
    assert sealed(manifest) == manifest
    assert {"step": 6, "world": 1, "zero_stage": 1, "due": True}.items() <= manifest.items()
    assert manifest["settings"]["learning_rate"] == small().learning_rate
    assert "execution" not in manifest["settings"]
    assert len(manifest["data"]) == 64
    assert len(manifest["guard"]["accepted"]) == 6
    assert set(manifest["versions"]) == {"torch", "deepspeed"}
    state = whole.work / "checkpoints/step-00000006/state"
    assert set(manifest["files"]) == {f"state/{path.name}" for path in state.iterdir()}
    assert {entry["size"] for entry in manifest["files"].values()} == {
        path.stat().st_size for path in state.iterdir()
    }


def test_the_pointer_names_the_newest(whole: Ended) -> None:
    pointer = json.loads((whole.work / "checkpoints" / "latest.json").read_text())
    assert pointer == {"name": "step-00000009"}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def optimiser(checkpoint: Path) -> Path:
    return next(checkpoint.glob("state/*optim_states.pt"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: flip(optimiser(c)), "optim_states.pt has other bytes than were written"),
        (lambda c: flip(next(c.glob("state/mp_*"))), "model_states.pt has other bytes"),
        (lambda c: cut(optimiser(c)), "optim_states.pt has other bytes than were written"),
        (lambda c: optimiser(c).unlink(), "optim_states.pt is missing"),
        (lambda c: (c / "state" / "mp_rank_01_model_states.pt").touch(), "states.pt is not listed"),
        (lambda c: (c / "manifest.json").unlink(), "no manifest.json as it was written"),
        (lambda c: flip(c / "manifest.json"), "no manifest.json as it was written"),
        (lambda c: change(c / "manifest.json", '"offset": 0', '"offset": 1'), "no manifest"),
        (lambda c: (c / "manifest.json").write_text("[]"), "no manifest.json as it was written"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(
    spoil: Callable[[Path], None], reason: str, copy: Path, corpus: Path, whole: Ended
) -> None:
    spoil(copy / "checkpoints" / "step-00000009")
    again = run(copy, corpus, small(), objective=SMALL)
    assert_same(again, whole)
    assert again.kinds == ["unusable", "resumed"]
    assert "checkpoint step-00000009 is not used: " in again.events[0]["message"]
    assert reason in again.events[0]["message"]
    assert again.events[1]["step"] == 6


def test_a_file_is_compared_before_anything_in_it_is_run(
    copy: Path, corpus: Path, whole: Ended, tmp_path: Path
) -> None:
    """A pickle may do anything when it is read."""
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
            return Path.touch, (tmp_path / "sprung",)

    optimiser(copy / "checkpoints" / "step-00000009").write_bytes(pickle.dumps(Trap()))
    assert_same(run(copy, corpus, small(), objective=SMALL), whole)
    assert not (tmp_path / "sprung").exists()


def test_a_manifest_names_no_file_outside_its_checkpoint(
    copy: Path, corpus: Path, whole: Ended
) -> None:
    path = copy / "checkpoints" / "step-00000009" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../records.jsonl"] = {"size": 0, "sha256": ""}
    path.write_text(json.dumps(sealed(manifest)))
    again = run(copy, corpus, small(), objective=SMALL)
    assert "../../records.jsonl lies outside" in again.events[0]["message"]
    assert_same(again, whole)


def test_with_every_checkpoint_damaged_a_run_begins_anew(
    copy: Path, corpus: Path, whole: Ended
) -> None:
    for checkpoint in (copy / "checkpoints").glob("step-*"):
        flip(optimiser(checkpoint))
    again = run(copy, corpus, small(), objective=SMALL)
    assert_same(again, whole)
    assert again.kinds == ["unusable", "unusable"]


def test_a_damaged_checkpoint_does_not_count_among_those_that_are_kept(
    copy: Path, corpus: Path
) -> None:
    flip(optimiser(copy / "checkpoints" / "step-00000009"))
    asked = run(copy, corpus, small(checkpoint_every=1), objective=Planted(stop_at=7))
    assert asked.checkpoints == ["step-00000007", "step-00000008", "step-00000009"]
    assert asked.kinds == ["unusable", "resumed", "stopped"]


def test_checkpoints_of_other_settings_are_refused_by_name(copy: Path, corpus: Path) -> None:
    changed = small(learning_rate=0.5, weight_decay=0.25)
    refused = run(copy, corpus, changed, objective=SMALL)
    assert refused.codes == [1]
    assert "LineageError" in refused.error
    assert "other values of learning_rate, weight_decay" in refused.error


def test_checkpoints_of_other_data_are_refused(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_corpus(other, make_dpixels(60, seed=1), block_rows=10, shard_blocks=3)
    refused = run(copy, other, small(), objective=SMALL)
    assert "found one with other values of the data" in refused.error


def test_the_same_data_elsewhere_is_the_same(
    copy: Path, corpus: Path, whole: Ended, tmp_path: Path
) -> None:
    shutil.copytree(corpus, tmp_path / "elsewhere")
    shutil.rmtree(copy / "checkpoints" / "step-00000009")
    assert_same(run(copy, tmp_path / "elsewhere", small(), objective=SMALL), whole)


@pytest.mark.parametrize(
    ("execution", "kept"),
    [
        ({"checkpoint_every": 2, "keep_last": 2}, [8, 9]),
        ({"checkpoint_every": 2, "keep_last": 3}, [6, 8, 9]),
        ({"checkpoint_every": 1, "keep_last": 2, "keep_every": 4}, [4, 8, 9]),
        ({"checkpoint_every": 100, "keep_last": 2}, [0, 9]),
    ],
)
def test_the_last_are_kept_and_every_so_many_steps_one_for_good(
    execution: dict[str, int], kept: list[int], corpus: Path, tmp_path: Path
) -> None:
    found = run(tmp_path / "work", corpus, small(**execution), objective=SMALL)
    assert found.checkpoints == [f"step-{step:08d}" for step in kept]
