import shutil
from pathlib import Path

import pytest

from tasks.errors import DataError
from tasks.sample import make_sample
from tests.project import make_project, run

pytestmark = pytest.mark.slow


def test_made_sample_is_held_against_its_pin_even_with_an_empty_cache(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", num_tiles=1)
    shutil.rmtree(project.root / ".dvc" / "cache")
    pin = (project.root / "data.dvc").read_bytes()
    assert "with the bytes that data.dvc pins" in make_sample(project)
    assert "up to date" in run(project.root, "dvc", "status", "data.dvc")

    shutil.rmtree(project.root / ".dvc" / "cache")
    victim = next((project.root / "data").rglob("doys.npy"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.unlink()
    victim.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"the bytes that data\.dvc pins"):
        make_sample(project)
    assert (project.root / "data.dvc").read_bytes() == pin
