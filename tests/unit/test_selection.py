"""Candidates of a training: who is kept, who wins, and what a crash leaves."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.errors import DataError, DigestMismatch
from tasks.params import read_params
from tasks.training.selection import Selection, open_selection
from tests.training_runs import watch_writes

REPOSITORY = Path(__file__).parents[2]


def weights(step: int) -> dict[str, Tensor]:
    return {"w": torch.full((3, 2), float(step)), "b": torch.arange(4.0) + step}


def filled(folder: Path, scores: dict[int, float | None], keep: int = 2) -> Selection:
    selection = Selection(folder, keep)
    for step, score in scores.items():
        numbers = {"held_out_loss": 1.0 / step} | ({} if score is None else {"probe": score})
        selection.offer(step, weights(step), numbers)
    return selection


def winner(selection: Selection) -> int:
    best = selection.best()
    assert best is not None
    found = selection.weights(best)
    assert all(torch.equal(found[name], w) for name, w in weights(best.step).items())
    return best.step


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_lower_loss_with_a_lower_score_loses(tmp_path: Path) -> None:
    selection = filled(tmp_path, {10: 0.4, 20: 0.6, 30: 0.5})
    losses = [candidate.numbers["held_out_loss"] for candidate in selection.table()]
    assert losses == sorted(losses, reverse=True)
    assert winner(selection) == 20


def test_equal_scores_and_no_score_go_to_the_later_one(tmp_path: Path) -> None:
    assert winner(filled(tmp_path / "equal", {10: 0.4, 20: 0.4})) == 20
    assert winner(filled(tmp_path / "none", {10: None, 20: None, 30: None})) == 30
    assert Selection(tmp_path / "empty", 1).best() is None


def test_only_the_best_keep_their_weights_and_all_stay_in_the_table(tmp_path: Path) -> None:
    selection = filled(tmp_path, {10: 0.9, 20: 0.1, 30: 0.5, 40: 0.2})
    assert [c.step for c in selection.table()] == [10, 20, 30, 40]
    assert sorted(files(tmp_path)) == [
        "candidates.json",
        "step-00000010.safetensors",
        "step-00000030.safetensors",
    ]


def test_pinned_steps_keep_their_weights_whatever_they_score(tmp_path: Path) -> None:
    selection = Selection(tmp_path, keep=1, pinned={10, 40})
    for step, score in ((10, 0.1), (20, 0.8), (30, 0.2), (40, 0.3)):
        selection.offer(step, weights(step), {"probe": score})
    kept = [c.step for c in selection.table() if c.sha256 is not None]
    assert kept == [10, 20, 40]
    assert winner(selection) == 20


def test_a_run_that_goes_back_offers_the_same_again(tmp_path: Path) -> None:
    straight = filled(tmp_path / "straight", {10: 0.4, 20: 0.6, 30: 0.5})
    back = filled(tmp_path / "back", {10: 0.4, 20: 0.6})
    back.rewind(10)
    assert [c.step for c in back.table()] == [10]
    filled(tmp_path / "back", {20: 0.6, 30: 0.5})
    assert files(straight.folder) == files(back.folder)


def test_scores_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"after 5 steps.*found cosine_16 nan"):
        Selection(tmp_path, 1).offer(5, weights(5), {"probe": 0.1, "cosine_16": float("nan")})
    assert not any(tmp_path.iterdir())


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    selection = filled(tmp_path, {10: 0.4})
    path = tmp_path / "step-00000010.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    best = selection.best()
    assert best is not None
    with pytest.raises(DigestMismatch, match="step-00000010"):
        selection.weights(best)


def offer_killed(folder: Path, kill_at: int) -> None:
    watch_writes(folder.parent / "writes", kill_at)
    filled(folder, {30: 0.7}, keep=1)


def test_killed_at_any_write_of_an_offer_the_candidates_before_it_are_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    whole = tmp_path / "whole"
    filled(whole, {10: 0.4, 20: 0.6, 30: 0.7}, keep=1)
    for kill_at in range(1, 40):
        folder = tmp_path / f"killed-{kill_at}" / "candidates"
        filled(folder, {10: 0.4, 20: 0.6}, keep=1)
        process = context.Process(target=offer_killed, args=(folder, kill_at))
        process.start()
        process.join()
        selection = Selection(folder, keep=1)
        assert winner(selection) in {20, 30}
        selection.rewind(20)
        filled(folder, {30: 0.7}, keep=1)
        assert files(folder) == files(whole)
        if process.exitcode == 0:
            break
    assert kill_at > 5


def test_early_and_late_steps_of_a_distillation_are_pinned(tmp_path: Path) -> None:
    section = read_params(REPOSITORY / "params.yaml").distill
    changes = {"steps": 100, "probe_every": 30, "early_share": 0.1}
    params = section.model_copy(update=changes)
    assert params.kept_steps == {30, 100}
    assert params.model_copy(update={"probe_every": 0}).kept_steps == {100}
    assert params.model_copy(update={"early_share": 1.0}).kept_steps == {100}
    selection = open_selection(tmp_path, params)
    for step in (30, 60, 90, 100):
        selection.offer(step, weights(step), {"probe": -abs(step - 60)})
    index = json.loads((tmp_path / "candidates" / "candidates.json").read_text())
    assert [row["sha256"] is not None for row in index] == [True, True, True, True]
