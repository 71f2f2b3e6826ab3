"""The whole chain on a real tile of Belgium, 2018: 64 x 64 px, ascending radar only."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.project import make_project, repro

pytestmark = pytest.mark.slow


def test_chain_runs_on_a_real_tile_with_its_labels(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "data" / "be2018"
    project = make_project(tmp_path / "project", archive=str(archive))
    repro(project.root)
    scores = json.loads((project.artifacts / "evaluate" / "scores.json").read_text())
    assert {task["task"] for task in scores["tasks"]} >= {"land_cover"}
    codes = np.load(next((project.artifacts / "export").rglob("0_0_64_64.npy")))
    assert codes.shape == (64, 64, 128)
    assert np.abs(codes).max() == 127


def test_chain_without_labels_says_so_and_goes_on(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "data" / "be2018" / "tiles"
    project = make_project(tmp_path / "project", archive=str(archive))
    repro(project.root)
    scores = json.loads((project.artifacts / "evaluate" / "scores.json").read_text())
    assert scores["tasks"] == []
    assert scores["labels"] == "none"
    assert (project.artifacts / "report" / "index.html").is_file()
