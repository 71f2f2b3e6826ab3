"""Evaluate, export and report on a small archive with students that were never trained."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from models.architecture import StudentConfig, TeacherConfig
from models.bands import NORMALISATIONS
from models.checkpoint import checkpoint_config, write_checkpoint
from models.initialisation import initialise
from models.quantize import dequantize
from models.student import Student
from models.teacher import Teacher
from tasks.checkpoints import open_checkpoint
from tasks.embedding.blocks import Embedded, embed_pixels
from tasks.embedding.codes import check_codes
from tasks.embedding.tile_layers import TileLayers
from tasks.errors import DataError, DigestMismatch
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.ingest import ingest
from tasks.manifest import describe_files, digest_of
from tasks.params import Params, read_params, set_archive
from tasks.report import report
from tasks.reporting.pictures import read_legend
from tasks.settings.section import Section
from tasks.stage import Stage, run_stage
from tasks.tiles import Array, TileRef, read_tile
from tasks.workspace import Workspace

SIZE = 12
STUDENTS = {
    "N": StudentConfig(latent=4, layers=1, heads=2, feedforward=16),
    "S": StudentConfig(latent=8, layers=1, heads=2, feedforward=16),
}


def write_archive(root: Path, *, labelled: bool = True) -> None:
    """Write two years of one 12 x 12 tile: two crops that differ in level, in 3 px parcels."""
    down, along = np.divmod(np.arange(SIZE * SIZE), SIZE)
    parcel = (1 + down // 3 * 4 + along // 3).reshape(SIZE, SIZE).astype(np.uint16)
    crop = (1 + (parcel * 7 % 16 > 7)).astype(np.uint16)
    for year in (2021, 2022):
        rng = np.random.default_rng(year)
        folder = root / "tiles" / str(year) / "0_0_12_12"
        folder.mkdir(parents=True)
        level = 1000 * crop + rng.normal(0, 300, (9, SIZE, SIZE))
        bands = np.clip(level[..., None] + rng.normal(0, 200, (9, SIZE, SIZE, 10)), 1, 9999)
        valid = (rng.random((9, SIZE, SIZE)) < 0.7).astype(np.uint8)
        radar = rng.integers(3000, 6000, (5, SIZE, SIZE, 2)).astype(np.int16)
        radar[:, :2] = 0  # outside the swath
        valid[:, 0, 0] = 0  # and one pixel that nobody saw
        np.save(folder / "bands.npy", bands.astype(np.uint16))
        np.save(folder / "masks.npy", valid)
        np.save(folder / "doys.npy", np.arange(20, 360, 40, dtype=np.uint16))
        np.save(folder / "sar_ascending.npy", radar)
        np.save(folder / "sar_ascending_doy.npy", np.arange(10, 360, 70, dtype=np.int16))
        region = np.ones((SIZE, SIZE), np.uint8)
        region[-1] = 0
        write_raster(folder / "roi.tiff", region)
        if labelled:
            for name, values in (("crop", crop), ("parcel", parcel)):
                write_raster(root / "labels" / str(year) / f"0_0_12_12_{name}.tif", values)


def write_raster(path: Path, values: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = rasterio.Affine(10, 0, 500000, 0, -10, 5600000)
    profile = {"driver": "GTiff", "width": SIZE, "height": SIZE, "count": 1, "crs": "EPSG:32631"}
    with rasterio.open(path, "w", dtype=values.dtype, transform=grid, **profile) as out:
        out.write(values, 1)


def small(params: Params) -> Params:
    distill = params.distill.model_copy(update={"students": STUDENTS})
    sizes = {"max_dpixels": 120, "min_dpixels": 20, "bootstrap": 30, "threads": 1, "folds": 2}
    chosen = {"evaluate": sizes, "export": {"threads": 1}}
    sections = {
        name: getattr(params, name).model_copy(update=update) for name, update in chosen.items()
    }
    return params.model_copy(update={"distill": distill, **sections})


def make_models(workspace: Workspace) -> None:
    """Stand in for everything between ingest and evaluate."""

    def stand_in(name: str, parents: tuple[str, ...], fill: Callable[[Stage], None]) -> None:
        run_stage(name, fill, workspace=workspace, section=Section(), parents=parents)

    def verdict(stage: Stage) -> None:
        text = {"success": True, "checks": [{"judged": 7}], "failures": []}
        (stage.build / "verdict.json").write_text(json.dumps(text))

    def nothing(stage: Stage) -> None:
        stage.counts["dpixels"] = 1

    def corpus(stage: Stage) -> None:
        nothing(stage)
        index = {"rows": 1, "mixing": {"ratio": None, "noise": None}}
        (stage.build / "index.json").write_text(json.dumps(index))

    def checkpoint(
        model: Student | Teacher, architecture: StudentConfig | TeacherConfig
    ) -> Callable[[Stage], None]:
        def fill(stage: Stage) -> None:
            initialise(model, seed=1)
            config = checkpoint_config(
                architecture,
                NORMALISATIONS["tessera-v2-student"],
                ladder_step=16,
                ladder_largest=64,
                provenance={},
            )
            write_checkpoint(stage.build, model.state_dict(), config)
            (stage.build / "curves.csv").write_text("step,loss\n0,3.0\n1,2.5\n2,2.25\n")
            rows = [{"step": 3, "selected": 1, "loss": 2.25, "probe": 0.5, "probe_error": 0.1}]
            facts = {"loss": "loss", "n": 1, "pearson": None, "spearman": None, "reason": "step 3"}
            (stage.build / "checkpoints.json").write_text(json.dumps(facts | {"candidates": rows}))

        return fill

    teacher = TeacherConfig(latent=4, layers=1, heads=2, feedforward=16, repr_dim=24)
    stand_in("validate", ("ingest",), verdict)
    stand_in("pack", ("ingest", "validate"), corpus)
    stand_in("pretrain", ("pack",), checkpoint(Teacher(teacher), teacher))
    stand_in("cache_targets", ("pack", "pretrain"), nothing)
    for name, architecture in STUDENTS.items():
        fill = checkpoint(Student(architecture), architecture)
        stand_in(f"distill@{name}", ("pack", "cache_targets"), fill)


def prepare(workspace: Workspace, *, labelled: bool = True, made: bool = False) -> Params:
    if not made:
        write_archive(workspace.root / "data", labelled=labelled)
    set_archive(workspace.params, "data")
    params = small(read_params(workspace.params))
    ingest(workspace, params)
    make_models(workspace)
    return params


def scores_of(workspace: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workspace.output("evaluate") / "scores.json").read_text())
    return content


def test_an_archive_of_point_tables_alone_gives_a_product_that_says_so(
    workspace: Workspace, shared_data: Path
) -> None:
    (workspace.root / "data" / "points").mkdir(parents=True)
    shutil.copy(shared_data / "data" / "korea_parcels.parquet", workspace.root / "data" / "points")
    params = prepare(workspace, made=True)
    evaluate(workspace, params)
    assert scores_of(workspace)["labels"] == "none"
    export(workspace, params)
    product = json.loads((workspace.output("export") / "product.json").read_text())
    assert (product["tiles"], product["counts"]["tiles"]) == ([], 0)
    assert "point tables and no tile" in product["note"]
    report(workspace, params)
    page = (workspace.output("report") / "index.html").read_text()
    assert "No embedding tiles: point tables only" in page
    assert "there is nothing to map" in page
    assert "fitted over all tiles" not in page


def test_chain_from_students_to_page(workspace: Workspace) -> None:
    params = prepare(workspace)
    evaluate(workspace, params)
    scores = scores_of(workspace)
    assert {row["model"] for row in scores["tasks"]} == {"N", "S", "teacher", "composites"}
    assert {row["dim"] for row in scores["tasks"] if row["model"] == "N"} == {16, 32, 64, 128}
    rows = [row["score"] for row in scores["tasks"] if (row["model"], row["dim"]) == ("S", 128)]
    assert scores["composite"]["S"]["128"] == pytest.approx(np.mean(rows), abs=1e-6)
    assert scores["reason"].startswith("highest composite at prefix 128: ")
    assert all(row["ci_low"] <= row["ci_high"] for row in scores["tasks"])
    # The level of the signal tells the crops apart: raw statistics must find it.
    assert scores["composite"]["composites"]["168"] > 0.7
    metrics = json.loads((workspace.output("evaluate") / "metrics.json").read_text())
    assert metrics["composite_S_128"] == scores["composite"]["S"]["128"]

    export(workspace, params)
    product = json.loads((workspace.output("export") / "product.json").read_text())
    assert product["counts"] == {"tiles": 2, "dpixels": 2 * (11 * 12 - 1)}
    folder = workspace.output("export") / "2021" / "0_0_12_12"
    codes, scales = (np.load(folder / f"0_0_12_12{part}.npy") for part in ("", "_scales"))
    assert (codes.dtype, codes.shape) == (np.int8, (12, 12, 128))
    assert np.isnan(scales[0, 0])
    assert np.isnan(scales[-1]).all()
    assert not codes[0, 0].any()
    facts = json.loads((folder / "tile.json").read_text())
    assert facts["georeference"]["crs"] == "EPSG:32631"
    assert facts["georeference"]["bounds"] == [500000, 5599880, 500120, 5600000]
    check_against_encoder(workspace, scores["best"], codes, scales)

    report(workspace, params)
    page = (workspace.output("report") / "index.html").read_text()
    assert "Best student" in page
    assert "downstream score of the probe against training loss" in page
    groups = scores["groups"]
    assert min(groups.values()) > 0
    assert f"{groups['evaluated']} parcels" in page
    assert digest_of(workspace.output("export")) in page
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page) == []
    assert not re.search(r"https?://|@import|url\(", page)


def check_against_encoder(workspace: Workspace, best: str, codes: Array, scales: Array) -> None:
    """Hold the product against the float embedding of one pixel."""
    folder = workspace.root / "data" / "tiles" / "2021" / "0_0_12_12"
    encoder = open_checkpoint(workspace.output(f"distill@{best}")).encoder
    tile = read_tile(TileRef("2021/0_0_12_12", folder))
    row = np.array([5 * SIZE + 6])
    found = embed_pixels(encoder, tile, row)[0]
    product = dequantize(codes, scales)[5, 6]
    np.testing.assert_allclose(product, found, atol=scales[5, 6] / 2 * 1.01)


def test_every_stage_gives_the_same_bytes_again(workspace: Workspace) -> None:
    params = prepare(workspace)
    stages = {"evaluate": evaluate, "export": export, "report": report}
    first = {}
    for name, run in stages.items():
        run(workspace, params)
        first[name] = describe_files(workspace.output(name))
    for name, run in stages.items():
        shutil.rmtree(workspace.output(name))
        run(workspace, params)
        assert describe_files(workspace.output(name)) == first[name]


def test_archive_without_labels_takes_the_largest_student_and_says_so(workspace: Workspace) -> None:
    params = prepare(workspace, labelled=False)
    for run in (evaluate, export, report):
        run(workspace, params)
    scores = scores_of(workspace)
    assert (scores["tasks"], scores["labels"], scores["best"]) == ([], "none", "S")
    assert "largest" in scores["reason"]
    page = (workspace.output("report") / "index.html").read_text()
    assert "no label rasters" in page


@pytest.mark.parametrize(
    "legend", ['{"1": {"colour": "#12', '["wheat"]', '{"1": {"colour": "red"}}', '{"1": "wheat"}']
)
def test_malformed_legend_is_said_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], legend: str
) -> None:
    (tmp_path / "crop.json").write_text(legend)
    assert read_legend(tmp_path / "crop.json") == {}
    assert "crop.json is not used" in capsys.readouterr().out


def test_legend_is_shown_and_one_that_changed_after_ingest_is_refused(workspace: Workspace) -> None:
    write_archive(workspace.root / "data")
    legend = workspace.root / "data" / "labels" / "crop.json"
    legend.write_text('{"1": {"name": "winter wheat", "colour": "#123456"}}')
    params = prepare(workspace, made=True)
    for run in (evaluate, export, report):
        run(workspace, params)
    page = (workspace.output("report") / "index.html").read_text()
    assert "winter wheat" in page
    assert "#123456" in page
    shutil.rmtree(workspace.output("report"))
    legend.write_text("{}")
    with pytest.raises(DigestMismatch, match=r"crop\.json"):
        report(workspace, params)


def interrupt_after(tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the process die, as far as a test can, once so many tiles are written."""
    import tasks.export as module

    done: list[int] = []

    class Dying(TileLayers):
        def finish(self) -> None:
            if len(done) == tiles:
                raise KeyboardInterrupt
            done.append(1)
            super().finish()

    monkeypatch.setattr(module, "TileLayers", Dying)


def test_interrupted_export_uses_finished_tiles_again_unless_they_were_damaged(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = prepare(workspace)
    evaluate(workspace, params)
    export(workspace, params)
    whole = describe_files(workspace.output("export"))
    shutil.rmtree(workspace.output("export"))
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            export(workspace, params)
    assert not workspace.output("export").exists()
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)  # one tile is left to make, so this run may make one
        export(workspace, params)
    assert describe_files(workspace.output("export")) == whole

    shutil.rmtree(workspace.output("export"))
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            export(workspace, params)
    (done,) = (workspace.state / "work" / "export").rglob("done.json")
    (kept,) = done.parent.glob("*_scales.npy")
    kept.write_bytes(kept.read_bytes()[:-4])
    export(workspace, params)
    assert describe_files(workspace.output("export")) == whole


def test_prefix_product_is_a_cut_of_the_full_one(workspace: Workspace) -> None:
    params = prepare(workspace)
    evaluate(workspace, params)
    export(workspace, params)
    name = workspace.output("export") / "2022" / "0_0_12_12" / "0_0_12_12.npy"
    full = np.load(name)
    short = params.export.model_copy(update={"dim": 16})
    export(workspace, params.model_copy(update={"export": short}))
    np.testing.assert_array_equal(full[..., :16], np.load(name))


def good_block() -> tuple[Array, Array, Embedded]:
    codes = np.zeros((4, 128), np.int8)
    codes[:, 0] = 127
    scales = np.full(4, 0.02, np.float32)
    rows, counts = np.arange(4), np.ones((4, 3), np.uint16)
    return codes, scales, Embedded(rows, np.zeros((4, 128), np.float32), counts)


def test_impossible_scale_is_refused_with_its_place() -> None:
    codes, scales, block = good_block()
    check_codes(codes, scales, block, "pixel {}".format)
    scales[2] = 0.5
    with pytest.raises(DataError, match=r"pixel 2.*scale"):
        check_codes(codes, scales, block, "pixel {}".format)


def test_code_that_is_not_the_peak_or_below_it_is_refused() -> None:
    codes, scales, block = good_block()
    codes[1, 5] = -128
    with pytest.raises(DataError, match="pixel 1"):
        check_codes(codes, scales, block, "pixel {}".format)
    codes[1] = 3
    with pytest.raises(DataError, match="largest code of 127"):
        check_codes(codes, scales, block, "pixel {}".format)


def test_missing_embedding_of_an_observed_pixel_is_refused() -> None:
    codes, scales, block = good_block()
    scales[0], codes[0] = np.nan, 0
    with pytest.raises(DataError, match="observations where there is an embedding"):
        check_codes(codes, scales, block, "pixel {}".format)
