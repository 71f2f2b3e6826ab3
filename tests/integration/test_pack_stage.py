"""Packing as a stage, and as a process whose memory is bounded."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tiles import write_tile
from tasks.errors import ValidationFailed
from tasks.ingest import ingest
from tasks.manifest import read_manifest
from tasks.pack import pack
from tasks.params import Params, read_params
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.validate import validate
from tasks.workspace import Workspace
from tests.packs import read_index

_CHILD = """
import sys
from pathlib import Path
from benchmarks.limits import peak_mb
from tests.packs import catalogue_of, pack_into, pack_params

root = Path(sys.argv[1])
params = pack_params(rows_per_shard=4096, block_rows=512, memory_mb=int(sys.argv[2]))
pack_into(catalogue_of(root / "small"), root / "first", params)  # everything is loaded now
before = peak_mb()
build = pack_into(catalogue_of(root / "large"), root / "second", params)
print(sum(path.stat().st_size for path in build.iterdir()) / 1e6, peak_mb() - before)
"""


def changed(params: Params, **sections: dict[str, object]) -> Params:
    content = {name: dict(getattr(params, name)) | given for name, given in sections.items()}
    parts = {name: type(getattr(params, name))(**given) for name, given in content.items()}
    return params.model_copy(update=parts)


@pytest.fixture
def params(workspace: Workspace) -> Params:
    config = SimulatorConfig(seed=3, num_tiles=2, tile_size_px=16, years=(2021,))
    write_archive(config, workspace.root / "data")
    found = read_params(workspace.params)
    given = changed(found, pack={"rows_per_shard": 128, "block_rows": 64, "threads": 1})
    ingest(workspace, given)
    validate(workspace, given)
    return given


def test_another_budget_of_memory_gives_the_same_manifest(
    workspace: Workspace, params: Params
) -> None:
    pack(workspace, params)
    first = (workspace.output("pack") / "manifest.json").read_bytes()
    pack(workspace, changed(params, pack={"memory_mb": 8, "threads": 3}))
    assert (workspace.output("pack") / "manifest.json").read_bytes() == first
    counts = read_manifest(workspace.output("pack"), verify=True).counts
    assert counts["dpixels"] == read_index(workspace.output("pack"))["rows"]


def test_a_corpus_that_drifted_is_stopped_and_need_not_be_packed_again(
    workspace: Workspace, params: Params
) -> None:
    pack(workspace, params)
    shutil.copytree(workspace.output("pack"), workspace.root / "reference")
    before = read_manifest(workspace.output("pack"))
    # Thick d-pixels alone are another corpus than all of them.
    thick = changed(
        params, pack={"min_s2": 74}, validate_={"reference": "reference", "max_drift": 0.01}
    )
    with pytest.raises(ValidationFailed, match=r"within 0\.01 of the reference reference"):
        pack(workspace, thick)
    assert read_manifest(workspace.output("pack")) == before
    works = (workspace.state / "work" / "pack").iterdir()
    (work,) = (folder for folder in works if not (folder / "finished").exists())
    made = {path: path.stat().st_mtime_ns for path in work.glob("shards/*.arrow")}
    assert made
    pack(workspace, changed(thick, validate_={"max_drift": 1.0}))
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert read_manifest(workspace.output("pack")) != before


@pytest.mark.slow
def test_memory_stays_within_the_budget_whatever_the_corpus(tmp_path: Path) -> None:
    for number in range(5):
        write_tile(tmp_path / "large" / f"{number}", 160, seed=number)
    write_tile(tmp_path / "small" / "0", 48)
    command = [sys.executable, "-c", _CHILD, str(tmp_path), "64"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    output_mb, growth_mb = map(float, done.stdout.splitlines()[-1].split())
    assert output_mb > 180
    assert growth_mb < 64 + 64  # the budget, and the pages of a tile that are mapped at once
