"""The gate between training and evaluation, on corpora that the packer wrote."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from tasks.check_split import check_split, require_lineage
from tasks.cli import app
from tasks.errors import DataError, DigestMismatch, LineageError
from tasks.ingest import Catalogue, ingest, make_catalogue
from tasks.pack import pack_archive
from tasks.params import read_params
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.tiles import read_tile
from tasks.validation.held_out import HeldOut
from tasks.workspace import Workspace
from tests.ground import place_of, write_labels

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # archives are simulated and packed whole
PARAMS = read_params(REPOSITORY / "params.yaml").pack.model_copy(
    update={"rows_per_shard": 512, "block_rows": 128}
)
SIZE = 24
YEARS = (2021, 2022)


def pack(catalogue: Catalogue, root: Path, held_out: HeldOut | None = None) -> str:
    (root / "pack").mkdir(parents=True)
    pack_archive(catalogue, root / "work", root / "pack", PARAMS, held_out)
    return str(root / "pack")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    root = tmp_path_factory.mktemp("archive") / "a"
    write_archive(SimulatorConfig(seed=3, num_tiles=2, tile_size_px=SIZE, years=YEARS), root)
    return Catalogue(root, tuple(make_catalogue(root)))


@pytest.fixture(scope="module")
def packed(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack(catalogue, tmp_path_factory.mktemp("corpus"))


def corner_of(catalogue: Catalogue, index: int) -> tuple[float, float]:
    with rasterio.open(catalogue.tile(index).folder / "roi.tiff") as source:
        return source.transform.c, source.transform.f


def test_labels_of_the_archive_itself_leak_pixel_by_pixel(
    catalogue: Catalogue, packed: str
) -> None:
    report = check_split(catalogue, packed, catalogue.archive, block_m=1000, years="any")
    content = report.to_json()
    labelled = 0
    for index, entry in enumerate(catalogue.entries):
        for name in set(entry.labels) - {"parcel"}:
            path = catalogue.label(index, name)
            assert path is not None
            with rasterio.open(path) as source:
                values = source.read(1)
            labelled += int((np.isfinite(values) & (values != 0)).sum())
    assert content["labels"] == labelled
    # Pixels that the packer left out have neighbours in the same block that it took.
    assert content["same_pixel"] + content["same_block"] == labelled
    assert content["same_pixel"] > 0.9 * labelled
    assert not content["success"]


def test_what_the_packer_holds_out_does_not_leak(catalogue: Catalogue, tmp_path: Path) -> None:
    west, north = corner_of(catalogue, 0)
    spots = [(*place_of("EPSG:32631", west + 30, north - 30), 2021)]
    labels = write_labels(tmp_path / "labels.parquet", spots)
    held_out = HeldOut.open(labels, 100, "any")
    corpus = pack(catalogue, tmp_path, held_out)
    report = check_split(catalogue, corpus, labels, block_m=100, years="any")
    assert report.verdict.success
    tiles = [read_tile(catalogue.tile(index)) for index in range(len(catalogue))]
    covered = sum(int(held_out.covers(tile).sum()) for tile in tiles)
    index = json.loads(Path(corpus, "index.json").read_text())
    assert index["rejected"]["held_out"] == covered > 0


def test_the_same_label_leaks_where_nothing_was_held_out(
    catalogue: Catalogue, packed: str, tmp_path: Path
) -> None:
    west, north = corner_of(catalogue, 0)
    spot = place_of("EPSG:32631", west + 35, north - 35)
    labels = write_labels(tmp_path / "labels.parquet", [(*spot, 2021), (*spot, 2023)])
    content = check_split(catalogue, packed, labels, block_m=100, years="same").to_json()
    assert (content["same_pixel"], content["other_year"]) == (1, 1)
    assert [row["year"] for row in content["sources"]] == [2021, 2023]


def test_labels_elsewhere_are_clean(catalogue: Catalogue, packed: str, tmp_path: Path) -> None:
    west, north = corner_of(catalogue, 0)
    far = place_of("EPSG:32631", west - 3000, north)
    labels = write_labels(tmp_path / "labels.parquet", [(*far, 2021)])
    report = check_split(catalogue, packed, labels, block_m=1000, years="any")
    assert report.verdict.success
    assert "no leak: of 1 labels" in report.render()


def test_an_index_that_hides_a_source_does_not_hide_its_pixels(
    catalogue: Catalogue, packed: str, tmp_path: Path
) -> None:
    shutil.copytree(packed, tmp_path / "pack")
    path = tmp_path / "pack" / "index.json"
    index = json.loads(path.read_text())
    index["sources"][0]["rows"] = 0
    path.write_text(json.dumps(index))
    labels = write_labels(tmp_path / "labels.parquet", [(3.0, 50.0, 2021)])
    with pytest.raises(DataError, match="of source 0"):
        check_split(catalogue, str(tmp_path / "pack"), labels, block_m=100, years="any")


def test_a_corpus_of_other_ground_is_not_taken_for_this_one(
    catalogue: Catalogue, packed: str, tmp_path: Path
) -> None:
    labels = write_labels(tmp_path / "labels.parquet", [(3.0, 50.0, 2021)])
    fewer = Catalogue(catalogue.archive, catalogue.entries[:-1])
    turned = Catalogue(catalogue.archive, catalogue.entries[::-1])
    for other, found in ((fewer, "other sources"), (turned, "another order")):
        with pytest.raises(DataError, match=found):
            check_split(other, packed, labels, block_m=1000, years="any")
    config = SimulatorConfig(seed=3, num_tiles=2, tile_size_px=SIZE, years=YEARS)
    write_archive(config, tmp_path / "a")
    for path in (tmp_path / "a").rglob("roi.tiff"):
        with rasterio.open(path, "r+") as raster:
            raster.transform = raster.transform @ raster.transform.translation(500, 0)
    moved = Catalogue(tmp_path / "a", catalogue.entries)
    with pytest.raises(DigestMismatch, match="georeference"):
        check_split(moved, packed, labels, block_m=1000, years="any")


def test_the_command_exits_with_one_on_a_leak_and_refuses_what_was_packed_from_elsewhere(
    catalogue: Catalogue, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = workspace.params.read_text()
    workspace.params.write_text(text.replace("archive: data ", f"archive: {catalogue.archive} "))
    monkeypatch.setenv("TESSERA_ROOT", str(workspace.root))
    done = CliRunner().invoke(app, ["check-split", "--labels", str(tmp_path)])
    assert isinstance(done.exception, LineageError)
    assert "dvc repro ingest" in str(done.exception)
    ingest(workspace, read_params(workspace.params))
    pack(catalogue, workspace.artifacts)
    west, north = corner_of(catalogue, 1)
    with pytest.raises(LineageError, match="no archive"):
        require_lineage(str(workspace.output("ingest")), workspace.output("ingest"))
    near, far = (place_of("EPSG:32631", west + d, north - 5) for d in (5, -5000))
    for spot, code in ((near, 1), (far, 0)):
        labels = write_labels(tmp_path / "labels.parquet", [(*spot, 2022)])
        done = CliRunner().invoke(app, ["check-split", "--labels", str(labels), "--json"])
        assert done.exit_code == code, done.output
        assert json.loads(done.stdout)["success"] is not bool(code)
