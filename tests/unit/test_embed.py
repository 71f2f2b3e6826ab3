import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.bands import NORMALISATIONS
from models.checkpoint import checkpoint_config, write_checkpoint
from models.dpixel import DPixels
from models.initialisation import initialise
from models.quantize import quantize
from models.student import Student
from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.embed import embed_tiles
from tasks.embedding.blocks import BLOCK_DPIXELS, Block, embed_blocks, tile_blocks
from tasks.embedding.fidelity import MIN_FIDELITY, cosine_of
from tasks.embedding.report import Options, Report
from tasks.errors import DataError, ParamsError
from tasks.tiles import TileRef, dpixels_of, read_tile
from tests.embedding import (
    TINY,
    Arrays,
    encode,
    products,
    records,
    tile_arrays,
    write_arrays,
    write_student,
)
from tests.unit.test_tiles import write_raster

GOLDEN = ("student_nano", "student_qknorm", "teacher_tiny")
EDGES = ("no optical", "no radar", "descending only", "one clear date", "all dates clear")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_student(tmp_path_factory.mktemp("student") / "s.pt"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three small tiles, one of them of a year."""
    for seed, key in enumerate(("2021/b", "a", "c")):
        write_arrays(tmp_path / "archive" / key, tile_arrays(seed=seed))
    return tmp_path / "archive"


def _all_dpixels(folder: Path) -> DPixels:
    tile = read_tile(TileRef(folder.name, folder))
    return dpixels_of(tile, np.arange(tile.region.size), 0)


# Golden: outputs of the released code.


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_tile_has_the_released_embeddings(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    golden = shared_data / "golden"
    opened = open_checkpoint(golden / f"{name}.pt")
    embed_tiles(opened, golden / "tiles", tmp_path, Options(opened.encoder.dim))
    expected, actual = np.load(golden / f"{name}__a.npy"), np.load(tmp_path / "a.npy")
    assert (expected.shape, expected.dtype) == (actual.shape, actual.dtype)
    for column, edge in enumerate(EDGES):
        np.testing.assert_allclose(actual[0, column], expected[0, column], atol=2e-5, err_msg=edge)
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_codes_are_within_half_a_scale(name: str, shared_data: Path, tmp_path: Path) -> None:
    golden = shared_data / "golden"
    opened = open_checkpoint(golden / f"{name}.pt")
    options = Options(opened.encoder.dim, as_codes=True)
    embed_tiles(opened, golden / "tiles", tmp_path, options)
    codes, scales = np.load(tmp_path / "a.npy"), np.load(tmp_path / "a_scales.npy")
    assert codes.dtype == np.int8
    error = np.abs(codes * scales[..., None] - np.load(golden / f"{name}__a.npy"))
    assert (error <= scales[..., None] / 2 + 2e-5).all()


@pytest.mark.parametrize("name", ["student_nano", "student_qknorm"])
def test_golden_codes_of_a_prefix_are_a_prefix(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    golden = shared_data / "golden"
    opened = open_checkpoint(golden / f"{name}.pt")
    for dim in (16, 128):
        embed_tiles(opened, golden / "tiles", tmp_path / str(dim), Options(dim, as_codes=True))
    whole, short = np.load(tmp_path / "128" / "a.npy"), np.load(tmp_path / "16" / "a.npy")
    assert short.shape == (12, 10, 16)
    assert (whole[..., :16] == short).all()
    assert (tmp_path / "128" / "a_scales.npy").read_bytes() == (
        tmp_path / "16" / "a_scales.npy"
    ).read_bytes()


# No data.


def test_unobserved_pixel_is_nan_never_zero(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    report = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    vectors = np.load(tmp_path / "out" / "a.npy")
    assert np.isnan(vectors[0, 0]).all()
    assert np.isfinite(vectors.reshape(-1, 128)[1:]).all()
    assert np.load(tmp_path / "out" / "a_observations.npy")[0, 0].tolist() == [0, 0, 0]
    assert (report.dpixels, report.unobserved) == (90, 3)


def test_unobserved_pixel_has_code_0_and_a_nan_scale(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    embed_tiles(checkpoint, archive, tmp_path / "out", Options(64, as_codes=True))
    codes, scales = (np.load(tmp_path / "out" / f"a{s}.npy") for s in ("", "_scales"))
    assert not codes[0, 0].any()
    assert np.isnan(scales).sum() == 1
    assert np.isnan(scales[0, 0])


@pytest.mark.parametrize("as_codes", [False, True])
def test_pixels_outside_the_region_are_no_data(
    as_codes: bool, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = write_arrays(tmp_path / "archive" / "a", tile_arrays())
    region = np.ones((5, 6), np.uint8)
    region[2:, 3] = 0
    write_raster(folder / "roi.tiff", region)
    out = tmp_path / "out"
    report = embed_tiles(checkpoint, tmp_path / "archive", out, Options(128, as_codes=as_codes))
    missing = region == 0
    missing[0, 0] = True
    found = np.load(out / ("a_scales.npy" if as_codes else "a.npy"))
    assert (np.isnan(found.reshape(5, 6, -1)).all(axis=2) == missing).all()
    assert not as_codes or not np.load(out / "a.npy")[missing].any()
    assert not np.load(out / "a_observations.npy")[missing].any()
    assert report.dpixels == 27
    assert records(out)["a"]["georeference"]["crs"] == "EPSG:32631"


def test_tile_outside_its_region_altogether_is_all_no_data(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = write_arrays(tmp_path / "archive" / "a", tile_arrays())
    write_raster(folder / "roi.tiff", np.zeros((5, 6), np.uint8))
    report = embed_tiles(checkpoint, tmp_path / "archive", tmp_path / "out", Options(128))
    assert np.isnan(np.load(tmp_path / "out" / "a.npy")).all()
    assert (report.embedded, report.dpixels) == (["a"], 0)


def test_tile_without_optical_dates_is_embedded_from_radar(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_arrays(tmp_path / "archive" / "a", tile_arrays(dates=0))
    report = embed_tiles(checkpoint, tmp_path / "archive", tmp_path / "out", Options(128))
    assert report.failed == {}
    vectors = np.load(tmp_path / "out" / "a.npy").reshape(-1, 128)
    observed = np.load(tmp_path / "out" / "a_observations.npy").reshape(-1, 3)
    assert not observed[:, 0].any()
    assert (np.isfinite(vectors).all(axis=1) == observed.any(axis=1)).all()


def test_observations_are_counted_by_stream(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    given = tile_arrays(seed=1)
    passes = [(given[f"sar_{orbit}"] != 0).any(-1).sum(0) for orbit in ("ascending", "descending")]
    expected = np.stack([given["masks"].sum(0), *passes], axis=-1)
    assert np.array_equal(np.load(tmp_path / "out" / "a_observations.npy"), expected)


# Same bytes however it is done.


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of one tile of two blocks."""
    root = tmp_path_factory.mktemp("wide") / "archive"
    write_arrays(root / "w", tile_arrays(80, 80, passes=4))
    return root


def test_tile_of_two_blocks_equals_all_pixels_encoded_at_once(
    checkpoint: Checkpoint, wide: Path, tmp_path: Path
) -> None:
    assert BLOCK_DPIXELS < 80 * 80
    embed_tiles(checkpoint, wide, tmp_path, Options(128, workers=2))
    expected = encode(checkpoint.encoder, _all_dpixels(wide / "w")).reshape(80, 80, 128)
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), expected)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_number_of_workers_changes_no_byte(precision: str, wide: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(write_student(tmp_path / "s.pt"), precision=precision)
    for workers in (1, 3):
        embed_tiles(opened, wide, tmp_path / str(workers), Options(128, workers=workers))
    assert products(tmp_path / "1") == products(tmp_path / "3")


def test_int8_is_near_float32(wide: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(write_student(tmp_path / "s.pt"), precision="int8")
    report = embed_tiles(opened, wide, tmp_path / "out", Options(128))
    dpixels = _all_dpixels(wide / "w")
    exact = encode(open_checkpoint(tmp_path / "s.pt").encoder, dpixels)
    cosine = cosine_of(np.load(tmp_path / "out" / "w.npy").reshape(-1, 128), exact)
    assert len(cosine) == 80 * 80 - np.isnan(exact[:, 0]).sum()
    assert cosine.mean() > MIN_FIDELITY
    assert report.fidelity["w"]["mean"] == pytest.approx(cosine.mean(), abs=5e-4)
    assert records(tmp_path / "out")["w"]["fidelity"] == report.fidelity["w"]


def test_shorter_dim_is_a_prefix_of_the_float32_vectors(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    for dim in (32, 128):
        embed_tiles(checkpoint, archive, tmp_path / str(dim), Options(dim))
    short, whole = (np.load(tmp_path / dim / "2021" / "b.npy") for dim in ("32", "128"))
    np.testing.assert_array_equal(short, whole[..., :32])


# What cannot be embedded.


def test_empty_folder_is_a_failure_beside_tiles_and_theirs_inside(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    (archive / "a" / "notes" / "empty").mkdir(parents=True)
    (archive / "2021" / "lost").mkdir()
    report = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    assert report.failed == {"2021/lost": "expected tile files; found an empty folder"}
    assert report.embedded == ["2021/b", "a", "c"]


def test_linked_tile_is_named_as_it_is_not_followed(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    (archive / "link").symlink_to(archive / "a")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a_crop.tif").touch()
    (archive / "labels").symlink_to(tmp_path / "labels")
    report = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    assert list(report.failed) == ["link"]
    assert "found a link" in report.failed["link"]
    assert report.embedded == ["2021/b", "a", "c"]


def test_fault_in_a_later_block_publishes_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    arrays = tile_arrays(80, 80)
    arrays["sar_descending"][0, -1, -1] = -5
    write_arrays(tmp_path / "archive" / "w", arrays)
    report = embed_tiles(checkpoint, tmp_path / "archive", tmp_path / "out", Options(128))
    assert list(report.failed) == ["w"]
    assert products(tmp_path / "out") == {}


def test_reading_that_fails_stops_behind_the_blocks_before_it(
    checkpoint: Checkpoint, wide: Path
) -> None:
    tile = read_tile(TileRef("w", wide / "w"))

    def blocks() -> Iterator[Block]:
        for start in (0, 50, 100):
            yield next(tile_blocks(tile, np.arange(start, start + 50)))
        raise DataError("x", found="y", where="z", mend="w")

    found = embed_blocks(checkpoint.encoder, blocks(), workers=3)
    assert [int(next(found).rows[0]) for _ in range(3)] == [0, 50, 100]
    with pytest.raises(DataError):
        next(found)


# Statistics and where the data come from.


def _bound_to_aws(folder: Path) -> Checkpoint:
    student = Student(TINY)
    initialise(student, seed=1)
    statistics = NORMALISATIONS["tessera-v1.1-aws"]
    config = checkpoint_config(TINY, statistics, ladder_step=16, ladder_largest=64, provenance={})
    write_checkpoint(folder, student.state_dict(), config)
    return open_checkpoint(folder)


@pytest.mark.parametrize("split", [False, True], ids=["plain", "with tiles/"])
def test_data_of_another_source_are_refused_unless_forced(split: bool, tmp_path: Path) -> None:
    opened, archive = _bound_to_aws(tmp_path / "model"), tmp_path / "archive"
    write_arrays(archive / ("tiles/a" if split else "a"), tile_arrays())
    (archive / "source.json").write_text(json.dumps({"source": "mpc"}))
    refused = embed_tiles(opened, archive, tmp_path / "out", Options(128))
    assert "source mpc" in refused.failed["a"]
    assert "source.json of tile a" in refused.failed["a"]
    forced = embed_tiles(opened, archive, tmp_path / "out", Options(128, force=True))
    assert (forced.embedded, forced.failed) == (["a"], {})
    assert records(tmp_path / "out")["a"]["model"]["normalisation"] == "tessera-v1.1-aws"


def test_statistics_of_any_source_take_data_of_each(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    (archive / "source.json").write_text(json.dumps({"source": "mpc"}))
    report = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    assert (len(report.embedded), report.failed) == (3, {})


def test_data_made_for_other_statistics_are_refused(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    record = {"normalisation": "tessera-v1.1-mpc"}
    (archive / "a" / "source.json").write_text(json.dumps(record))
    report = embed_tiles(checkpoint, archive, tmp_path / "out", Options(128))
    assert list(report.failed) == ["a"]
    assert "normalisation tessera-v1.1-mpc" in report.failed["a"]
    assert report.embedded == ["2021/b", "c"]


# What is asked for.


@pytest.mark.parametrize("dim", [0, 17, 256])
def test_length_that_was_not_trained_is_refused(
    dim: int, checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match=f"16, 32, 64, 128; found {dim}"):
        embed_tiles(checkpoint, archive, tmp_path / "out", Options(dim))
    assert not (tmp_path / "out").exists()


def test_teacher_cannot_be_cut(shared_data: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(shared_data / "golden" / "teacher_tiny.pt")
    with pytest.raises(ParamsError, match="trained for: 96; found 16"):
        embed_tiles(opened, shared_data / "golden" / "tiles", tmp_path / "out", Options(16))


def test_force_takes_what_looks_wrong_but_not_what_is_illegal(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def cloudless(arrays: Arrays) -> None:
        arrays["masks"][:] = 1

    def timeless(arrays: Arrays) -> None:
        arrays["doys"][0] = 400

    for name, change in (("odd", cloudless), ("illegal", timeless)):
        arrays = tile_arrays(dates=40)
        change(arrays)
        write_arrays(tmp_path / "archive" / name, arrays)
    report = embed_tiles(checkpoint, tmp_path / "archive", tmp_path / "out", Options(128))
    assert sorted(report.failed) == ["illegal", "odd"]
    forced = embed_tiles(
        checkpoint, tmp_path / "archive", tmp_path / "out", Options(128, force=True)
    )
    assert (forced.embedded, list(forced.failed)) == (["odd"], ["illegal"])


def test_summary_ends_with_what_failed() -> None:
    text = Report("out", embedded=["a"], failed={"b": "no bands.npy"}, dpixels=1).render()
    assert text.splitlines()[0] == "1 embedded, 0 kept, 1 failed"
    assert text.splitlines()[-2:] == ["FAILED b: no bands.npy", "See out"]


def test_codes_are_those_of_the_full_embedding(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    embed_tiles(checkpoint, archive, tmp_path / "out", Options(16, as_codes=True))
    codes, scales = quantize(encode(checkpoint.encoder, _all_dpixels(archive / "a")))
    found = [np.load(tmp_path / "out" / f"a{suffix}.npy") for suffix in ("", "_scales")]
    np.testing.assert_array_equal(found[0].reshape(-1, 16), codes[:, :16])
    np.testing.assert_array_equal(found[1].reshape(-1), scales)


def test_threads_of_the_caller_are_left_alone(
    checkpoint: Checkpoint, archive: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    embed_tiles(checkpoint, archive, tmp_path / "out", Options(128, workers=2))
    assert torch.get_num_threads() == before
