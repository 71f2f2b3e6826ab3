"""The control experiments as a user runs them, on the tiny project."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.project import run, write_settings

pytestmark = pytest.mark.slow
TESSERA = (sys.executable, "-c", "from tasks.cli import main; main()")
TRAINED = "controls: training"
NAMES = ["equation 2", "truncation", "prefix losses", "PCA", "teacher"]


def test_the_table_is_made_once_and_another_seed_trains_what_it_needs(
    finished_project: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(finished_project, project, symlinks=True)
    printed = run(project, *TESSERA, "controls")
    assert TRAINED not in printed
    assert all(f"\n{name} " in printed for name in NAMES)
    write_settings(project, {"controls": {"seeds": [11, 12]}})
    printed = run(project, *TESSERA, "controls")
    for label in ("student-128-11", "student-16-32-64-128-12", "student-128-12"):
        assert f"{TRAINED} {label}" in printed
    assert f"{TRAINED} student-16-32-64-128-11" not in printed
    content = json.loads((project / "artifacts" / "controls" / "controls.json").read_text())
    assert content["seeds"] == [11, 12]
    assert list(dict.fromkeys(row["control"] for row in content["rows"])) == NAMES
    assert set(content["meanings"]) == set(NAMES)
    of_prefix = {
        name: [row["prefix"] for row in content["rows"] if row["control"] == name] for name in NAMES
    }
    # The tiny teacher has 32 coordinates.
    assert of_prefix["equation 2"] == of_prefix["truncation"] == [16, 32, 64, 128]
    assert of_prefix["PCA"] == of_prefix["prefix losses"] == of_prefix["teacher"] == [16, 32]
