"""``tessera embed`` as a user starts it: a process of its own, good and bad archives, kills."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.released import encode_as_released
from models.encode import Encoder
from models.released import RELEASED_LADDER, read_released, released_normalisation
from tasks.tiles import find_tiles, read_tile
from tests.embedding import (
    Arrays,
    encode,
    is_one_line,
    records,
    run_embed,
    tile_arrays,
    write_arrays,
    write_student,
)
from tests.unit.models.arrays import tile_dpixels
from tests.unit.test_points import dpixels_by_hand, vectors_of
from tests.unit.test_tiles import write_raster

pytestmark = pytest.mark.slow  # the real command, a process a test

SMALL = {"height": 5, "width": 6}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student") / "s.pt")


def _model(student: Path) -> Encoder:
    model = read_released(student)
    return Encoder(model, released_normalisation(model), RELEASED_LADDER)


# Bad input: one archive that holds every fault, with good tiles before and behind.

Break = Callable[[Path, Arrays], object]


def _set(name: str, change: Callable[[Arrays], np.ndarray]) -> Break:
    return lambda folder, arrays: np.save(folder / f"{name}.npy", change(arrays))


def _put(name: str, at: tuple[int, ...], value: int) -> Break:
    def change(folder: Path, arrays: Arrays) -> None:
        arrays[name][at] = value
        np.save(folder / f"{name}.npy", arrays[name])

    return change


def _overwrite(name: str, content: bytes) -> Break:
    return lambda folder, _: (folder / name).write_bytes(content)


def _cut(name: str) -> Break:
    return lambda folder, _: os.truncate(folder / name, (folder / name).stat().st_size - 7)


def _make_folder(folder: Path, _: Arrays) -> None:
    (folder / "doys.npy").unlink()
    (folder / "doys.npy").mkdir()


def _cloudless(folder: Path, _: Arrays) -> None:
    arrays = tile_arrays(**SMALL, dates=40)
    arrays["masks"][:] = 1
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def _other_region(folder: Path, _: Arrays) -> None:
    write_raster(folder / "roi.tiff", np.ones((4, 6), np.uint8))


FAULTS: dict[str, tuple[Break, str, str]] = {
    "9_bands": (_set("bands", lambda a: a["bands"][..., :9]), "bands.npy", "uint16 (T, H, W, 10)"),
    "11_bands": (
        _set("bands", lambda a: np.concatenate([a["bands"], a["bands"][..., :1]], -1)),
        "bands.npy",
        "(8, 5, 6, 11)",
    ),
    "float_bands": (_set("bands", lambda a: a["bands"].astype("f4")), "bands.npy", "float32"),
    "swapped_bytes": (_set("bands", lambda a: a["bands"].astype(">u2")), "bands.npy", ">u2"),
    "cloudless": (_cloudless, "masks.npy", "all 40 dates clear"),
    "mask_255": (_put("masks", (2, 3, 3), 255), "masks.npy", "255"),
    "float_masks": (_set("masks", lambda a: a["masks"] / 1), "masks.npy", "float64"),
    "day_0": (_put("doys", (0,), 0), "doys.npy", "found 0"),
    "day_400": (_put("doys", (-1,), 400), "doys.npy", "found 400"),
    "radar_day_400": (_put("sar_descending_doy", (1,), 400), "sar_descending_doy.npy", "found 400"),
    "negative_code": (_put("sar_ascending", (1, 2, 3, 0), -9), "sar_ascending.npy", "first -9"),
    "code_32767": (_put("sar_descending", (1, 2, 3, 0), 32767), "sar_descending.npy", "32767"),
    "wide_masks": (_set("masks", lambda a: a["masks"][..., :5]), "masks.npy", "(8, 5, 5)"),
    "few_days": (_set("doys", lambda a: a["doys"][1:]), "doys.npy", "8 integers"),
    "wide_radar": (
        _set("sar_ascending", lambda a: a["sar_ascending"][:, :4]),
        "sar_ascending.npy",
        "(5, 4, 6, 2)",
    ),
    "few_radar_days": (
        _set("sar_ascending_doy", lambda a: a["sar_ascending_doy"][1:]),
        "sar_ascending_doy.npy",
        "5 integers",
    ),
    "one_number": (
        _set("sar_ascending", lambda _: np.array(7, np.int16)),
        "sar_ascending.npy",
        "int16 ()",
    ),
    "no_radar_days": (
        lambda folder, _: (folder / "sar_ascending_doy.npy").unlink(),
        "sar_ascending_doy.npy",
        "no such file",
    ),
    "no_bands": (lambda folder, _: (folder / "bands.npy").unlink(), "bands.npy", "no such file"),
    "cut": (_cut("bands.npy"), "bands.npy", "expected a readable bands.npy"),
    "cut_radar": (_cut("sar_descending.npy"), "sar_descending.npy", "expected a readable"),
    "garbage": (_overwrite("masks.npy", b"garbage"), "masks.npy", "expected a readable masks.npy"),
    "empty_file": (_overwrite("doys.npy", b""), "doys.npy", "expected a readable doys.npy"),
    "a_folder": (
        _make_folder,
        "doys.npy",
        "expected a readable doys.npy",
    ),
    "pickled": (
        _set("doys", lambda _: np.array([{"a": 1}] * 8, dtype=object)),
        "doys.npy",
        "expected a readable doys.npy",
    ),
    "garbage_region": (_overwrite("roi.tiff", b"garbage"), "roi.tiff", "GeoTIFF"),
    "other_region": (_other_region, "roi.tiff", "(4, 6)"),
    "garbage_record": (_overwrite("source.json", b"{"), "source.json", "a JSON object"),
}
GOOD = ["2021/a_good", "z_good"]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of an archive that holds every fault and two good tiles."""
    root = tmp_path_factory.mktemp("faulty") / "archive"
    for name, (change, _, _) in FAULTS.items():
        arrays = tile_arrays(**SMALL)
        change(write_arrays(root / name, arrays), arrays)
    for key in ("2021/a_good", "z_good"):
        write_arrays(root / key, tile_arrays(**SMALL))
    (root / "hollow" / "nested").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def verdict(
    faulty: Path, student: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], str, Path]:
    """What the command says about that archive, as JSON and as text, and where it wrote."""
    out = tmp_path_factory.mktemp("verdict") / "out"
    arguments = ("--checkpoint", student, "--tiles", faulty, "--out", out, "--workers", 1)
    as_json = run_embed(*arguments, "--json", code=1)
    as_text = run_embed(*arguments, code=1)
    return json.loads(as_json.stdout), as_text.stdout, out


@pytest.mark.parametrize("name", FAULTS)
def test_bad_tile_is_named_with_its_file_and_fault(
    name: str, verdict: tuple[dict[str, Any], str, Path]
) -> None:
    report, text, out = verdict
    _, file, found = FAULTS[name]
    reason = report["failed"][name]
    assert file in reason
    assert found in reason
    assert name in reason
    assert f"FAILED {name}: {reason}" in text
    assert not list(out.glob(f"{name}*"))


def test_empty_folder_in_the_archive_is_named(verdict: tuple[dict[str, Any], str, Path]) -> None:
    assert "an empty folder" in verdict[0]["failed"]["hollow/nested"]


def test_good_tiles_among_bad_ones_are_done(verdict: tuple[dict[str, Any], str, Path]) -> None:
    report, text, out = verdict
    assert report["embedded"] == GOOD
    assert sorted(records(out)) == GOOD
    assert sorted(report["failed"]) == sorted([*FAULTS, "hollow/nested"])
    assert f"0 embedded, 2 kept, {len(report['failed'])} failed" in text


def test_good_tile_among_bad_ones_is_encoded_right(
    verdict: tuple[dict[str, Any], str, Path], student: Path
) -> None:
    arrays = tile_arrays(**SMALL)
    radar = [(arrays[o], arrays[f"{o}_doy"]) for o in ("sar_ascending", "sar_descending")]
    dpixels = tile_dpixels((arrays["bands"], arrays["masks"], arrays["doys"]), *radar)
    expected = encode(_model(student), dpixels).reshape(5, 6, 128)
    np.testing.assert_array_equal(np.load(verdict[2] / "z_good.npy"), expected)


# Wrong use: one line on standard error, nothing else.


@pytest.fixture(scope="module")
def two_tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two") / "archive"
    for seed, key in enumerate(("a", "b")):
        write_arrays(root / key, tile_arrays(**SMALL, seed=seed))
    return root


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--tiles": "nowhere"}, ("nowhere", "no such folder")),
        ({"--tiles": "hollow"}, ("hollow", "no tile folder")),
        ({"--out": "a_file"}, ("a_file",)),
        ({"--dim": "17"}, ("--dim", "16, 32, 64, 128")),
        ({"--precision": "float8"}, ("float8", "float32, int8, bfloat16")),
        ({"--checkpoint": "missing.pt"}, ("missing.pt", "nothing there")),
        ({"--checkpoint": "hollow"}, ("hollow",)),
    ],
    ids=lambda value: "-".join(*value.items()) if isinstance(value, dict) else "",
)
def test_wrong_use_is_one_line(
    changes: dict[str, str], words: tuple[str, ...], student: Path, two_tiles: Path, tmp_path: Path
) -> None:
    (tmp_path / "a_file").write_text("x")
    (tmp_path / "hollow").mkdir()
    given: dict[str, object] = {"--checkpoint": student, "--tiles": two_tiles, "--out": "out"}
    flat = [word for pair in (given | changes).items() for word in pair]
    paths = {"nowhere", "hollow", "a_file", "out", "missing.pt"}
    done = run_embed(*(tmp_path / str(w) if w in paths else w for w in flat), "--json", code=1)
    assert is_one_line(done.stderr), done.stderr
    assert all(word in done.stderr for word in words)
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("both", [True, False])
def test_tiles_and_points_both_or_neither_is_refused(
    both: bool, student: Path, two_tiles: Path, tmp_path: Path
) -> None:
    sources = ("--tiles", two_tiles, "--points", tmp_path) if both else ()
    done = run_embed("--checkpoint", student, "--out", tmp_path / "out", *sources, code=2)
    assert done.stderr.splitlines()[-1].endswith("expected either --tiles or --points")
    assert not (tmp_path / "out").exists()


# What the machine refuses.


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes root's override away")
@pytest.mark.parametrize("locked", ["a/masks.npy", "a/notes.txt", "a"])
def test_locked_file_or_folder_costs_its_tile_only(
    locked: str, student: Path, two_tiles: Path, tmp_path: Path
) -> None:
    shutil.copytree(two_tiles, tmp_path / "archive")
    (tmp_path / "archive" / "a" / "notes.txt").touch()
    (tmp_path / "archive" / locked).chmod(0)
    drop = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all")
    arguments = ("--checkpoint", student, "--tiles", tmp_path / "archive", "--out", tmp_path / "o")
    done = run_embed(*arguments, "--json", code=1, before=drop)
    (tmp_path / "archive" / locked).chmod(0o700)
    report = json.loads(done.stdout)
    assert report["embedded"] == ["b"]
    assert list(report["failed"]) == ["a"]
    assert str(Path(locked).name) in report["failed"]["a"]
    assert "ermission" in report["failed"]["a"]
    assert sorted(records(tmp_path / "o")) == ["b"]
    again = json.loads(run_embed(*arguments, "--json").stdout)
    assert (again["embedded"], again["kept"]) == (["a"], ["b"])


def test_tile_that_does_not_fit_on_the_disk_costs_itself_only(
    student: Path, tmp_path: Path
) -> None:
    root, out = tmp_path / "archive", tmp_path / "out"
    write_arrays(root / "a_big", tile_arrays(40, 40, dates=2, passes=1))  # 819 kB of vectors
    write_arrays(root / "b_small", tile_arrays(**SMALL))
    limited = ("bash", "-c", 'ulimit -f 256; exec "$@"', "_")  # KiB
    arguments = ("--checkpoint", student, "--tiles", root, "--out", out)
    done = run_embed(*arguments, "--json", code=1, before=limited)
    report = json.loads(done.stdout)
    assert (report["embedded"], list(report["failed"])) == (["b_small"], ["a_big"])
    assert "File too large" in report["failed"]["a_big"]
    assert "a_big.npy" in report["failed"]["a_big"]
    assert sorted(records(out)) == ["b_small"]
    assert not list((out / ".unfinished").rglob("*.npy"))
    again = json.loads(run_embed(*arguments, "--json").stdout)
    assert (again["embedded"], again["kept"]) == (["a_big"], ["b_small"])


# Real data.


def test_real_tile_is_taken_and_refused_with_the_usual_mistakes(
    shared_data: Path, student: Path, tmp_path: Path
) -> None:
    root = tmp_path / "archive"
    folder = find_tiles(shared_data / "data" / "be2018")[0].folder
    real = {name: np.load(folder / f"{name}.npy") for name in ("bands", "masks")}
    real = {name: array[:, 20:26] for name, array in real.items()}
    real["doys"] = np.load(folder / "doys.npy")
    write_arrays(root / "as_it_is", real)
    write_arrays(root / "reversed", real | {"bands": real["bands"][..., ::-1]})
    write_arrays(root / "inverted", real | {"masks": 1 - real["masks"]})
    arguments = ("--checkpoint", student, "--tiles", root, "--out", tmp_path / "out")
    report = json.loads(run_embed(*arguments, "--json", code=1).stdout)
    assert report["embedded"] == ["as_it_is"]
    assert list(report["failed"]) == ["inverted", "reversed"]
    assert "masks.npy of tile inverted" in report["failed"]["inverted"]
    assert "bands.npy of tile reversed" in report["failed"]["reversed"]


def test_points_command_answers_in_the_order_of_the_table(
    shared_data: Path, student: Path, tmp_path: Path
) -> None:
    source = shared_data / "data" / "fuel_moisture.parquet"
    arguments = ("--checkpoint", student, "--points", source, "--out", tmp_path / "out.parquet")
    report = json.loads(run_embed(*arguments, "--json").stdout)
    assert (report["dpixels"], report["failed"]) == (2313, {})
    given, found = pq.read_table(source), pq.read_table(tmp_path / "out.parquet")
    assert found["pixel_id"].to_pylist() == given["pixel_id"].to_pylist()
    expected = encode(_model(student), dpixels_by_hand(given.to_pylist()))
    np.testing.assert_array_equal(vectors_of(found["embedding"]), expected)


def test_broken_table_is_one_line_that_names_it(student: Path, tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"garbage")
    arguments = ("--checkpoint", student, "--points", tmp_path / "p.parquet", "--out")
    done = run_embed(*arguments, tmp_path / "out", code=1)
    assert is_one_line(done.stderr)
    assert "p.parquet: expected a readable Parquet file" in done.stderr
    assert not (tmp_path / "out").exists()


def test_whole_real_tile_equals_the_released_procedure(shared_data: Path, tmp_path: Path) -> None:
    archive, model_file = shared_data / "data" / "be2018", shared_data / "golden/student_nano.pt"
    run_embed("--checkpoint", model_file, "--tiles", archive, "--out", tmp_path)
    tile = read_tile(find_tiles(archive)[0])
    nothing = (np.zeros((0, *tile.shape, 2), np.int16), np.zeros(0, np.int16))
    radar = [tile.radar.get(orbit, nothing) for orbit in ("sar_ascending", "sar_descending")]
    dpixels = tile_dpixels((tile.bands, tile.valid, tile.doys), *radar)
    model = read_released(model_file)
    expected = encode_as_released(model, dpixels, released_normalisation(model), RELEASED_LADDER)
    actual = np.load(tmp_path / "0_0_64_64.npy").reshape(-1, 128)
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=0)
    record = records(tmp_path)["0_0_64_64"]
    assert record["georeference"]["crs"] == "EPSG:32631"
