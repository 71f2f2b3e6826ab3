"""The stage around the targets: what is recorded, and teachers from outside."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bands import NORMALISATIONS
from models.buckets import ladder
from models.dpixel import DPixels
from models.encode import Encoder
from models.released import RELEASED_LADDER, write_released
from tasks.cache_targets import cache_targets
from tasks.errors import DigestMismatch, ParamsError
from tasks.files import sha256_of
from tasks.manifest import read_manifest
from tasks.params import read_params
from tasks.stage import Stage, run_stage
from tasks.streaming.corpus import Corpus, open_corpus
from tasks.targets.teacher import open_foreign
from tasks.tracking import open_client
from tasks.workspace import Workspace
from tests.targets import (
    all_targets,
    bytes_below,
    make_teacher,
    save_teacher,
    settings,
    small_dpixels,
    write_small,
)
from tests.unit.models.arrays import tile_dpixels


def finish(workspace: Workspace, name: str, body: Any) -> None:
    """Finish an earlier stage with something small."""
    section = read_params(workspace.params).ingest
    run_stage(name, body, workspace=workspace, section=section)


def cache(workspace: Workspace, **changes: Any) -> Corpus:
    params = read_params(workspace.params).model_copy(update={"cache_targets": settings(**changes)})
    cache_targets(workspace, params)
    return open_corpus(str(workspace.output("cache_targets")), "targets")


def test_a_run_records_rounding_spread_and_cost_and_only_the_cost_differs_in_the_next(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_TARGETS", str(tmp_path / "elsewhere"))
    finish(workspace, "pack", lambda stage: write_small(stage.build, small_dpixels()))
    finish(workspace, "pretrain", lambda stage: save_teacher(stage.build, make_teacher()))
    cache(workspace)
    output = workspace.output("cache_targets")
    first, costs = bytes_below(output), [cost_of(workspace)]
    counts = read_manifest(output).counts
    cache(workspace)
    costs.append(cost_of(workspace))
    assert bytes_below(output) == first
    assert [(cost["shards_made"], cost["shards_reused"]) for cost in costs] == [(3, 0), (0, 3)]
    assert costs[0]["dpixels_per_s"] > 0
    assert not (workspace.state / "targets").exists()

    content = json.loads(first["targets.json"])
    assert counts["cosine_min"] == content["rounding"]["cosine_min"]
    assert counts["effective_rank"] == content["spread"]["effective_rank"]
    client = open_client(workspace)
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.tessera.stage = 'cache_targets'")
    assert [run.data.metrics["targets.shards_made"] for run in runs] == [0, 3]
    by_shard = client.get_metric_history(runs[1].info.run_id, "targets.shard.cosine_min")
    assert [one.step for one in by_shard] == [0, 1, 2]
    assert min(one.value for one in by_shard) == counts["cosine_min"]


def cost_of(workspace: Workspace) -> dict[str, Any]:
    path = workspace.artifacts / "provenance" / "cache_targets.json"
    found: dict[str, Any] = json.loads(path.read_text())["targets"]
    return found


def test_a_foreign_teacher_is_pinned_and_needs_no_pretrained_one(workspace: Workspace) -> None:
    finish(workspace, "pack", lambda stage: write_small(stage.build, small_dpixels()))
    path = workspace.root / "teacher.pt"
    write_released(path, make_teacher(seed=3))
    targets = cache(workspace, teacher="teacher.pt", teacher_digest=sha256_of(path))
    statistics = NORMALISATIONS["tessera-v2-teacher"]
    expected = Encoder(make_teacher(seed=3), statistics, RELEASED_LADDER).encode(small_dpixels())
    np.testing.assert_allclose(all_targets(targets), expected, atol=2e-3)
    manifest = read_manifest(workspace.output("cache_targets"))
    assert manifest.parents["teacher"] == sha256_of(path)
    assert sorted(manifest.parents) == ["pack", "teacher"]


def test_a_foreign_teacher_needs_its_digest(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "teacher.pt"
    write_released(path, make_teacher(seed=3))
    digest = sha256_of(path)
    with pytest.raises(ParamsError, match=f"set it to {digest}"):
        open_foreign(workspace, settings(teacher=str(path)))
    opened = open_foreign(workspace, settings(teacher=str(path), teacher_digest=digest))
    assert opened.digest == digest
    write_released(path, make_teacher(seed=4))  # another one under the same name
    with pytest.raises(DigestMismatch, match=r"teacher\.pt: expected the teacher"):
        open_foreign(workspace, settings(teacher=str(path), teacher_digest=digest))
    with pytest.raises(ParamsError, match="a checkpoint folder"):
        open_foreign(workspace, settings(teacher="nowhere.pt", teacher_digest=digest))


def test_a_folder_of_ours_may_be_the_teacher(workspace: Workspace, tmp_path: Path) -> None:
    save_teacher(tmp_path / "teacher", make_teacher(seed=3))
    with pytest.raises(ParamsError) as caught:
        open_foreign(workspace, settings(teacher=str(tmp_path / "teacher")))
    digest = str(caught.value).rpartition("set it to ")[2]
    opened = open_foreign(
        workspace, settings(teacher=str(tmp_path / "teacher"), teacher_digest=digest)
    )
    assert opened.encoder.ladder == ladder(8, 64)


def test_a_digest_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match=r"teacher_digest 0000.* without a teacher"):
        settings(teacher_digest="0" * 64)


def test_targets_of_the_released_teacher_are_the_released_embeddings(
    workspace: Workspace, shared_data: Path
) -> None:
    golden = shared_data / "golden"
    dpixels = golden_tile(golden / "tiles" / "a")
    expected = np.load(golden / "teacher_tiny__a.npy").reshape(len(dpixels), -1)
    seen = np.flatnonzero(dpixels.s2.counts + dpixels.s1_asc.counts + dpixels.s1_desc.counts)

    def body(stage: Stage) -> None:
        write_small(stage.build, dpixels.take(seen))

    finish(workspace, "pack", body)
    path = golden / "teacher_tiny.pt"
    targets = cache(workspace, teacher=str(path), teacher_digest=sha256_of(path))
    rounding = float(np.finfo(np.float16).eps) / 2
    np.testing.assert_allclose(all_targets(targets), expected[seen], atol=2e-5, rtol=rounding)


def golden_tile(folder: Path) -> DPixels:
    def read(name: str) -> np.ndarray:
        array: np.ndarray = np.load(folder / f"{name}.npy")
        return array

    return tile_dpixels(
        (read("bands"), read("masks"), read("doys")),
        (read("sar_ascending"), read("sar_ascending_doy")),
        (read("sar_descending"), read("sar_descending_doy")),
    )
