import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tasks.errors import DataError, ParamsError
from tasks.files import files_below, sha256_of
from tasks.import_archive import ImportReport, import_archive
from tasks.tiles import find_labels, find_tiles, read_raster, read_tile

HEIGHT, WIDTH, SIDE = 5, 7, 9
"""The tile's real size, and that of the padded arrays."""
DATES, PASSES = 6, 4
NAME = f"18_9_{18 + WIDTH}_{9 + HEIGHT}"
PLACE = f"retiled_d_pixel/{NAME}"
Arrays = dict[str, np.ndarray]


def make_arrays() -> Arrays:
    """Make the arrays of a small tile as the layout wants them."""
    random = np.random.default_rng(4)
    return {
        "bands": random.integers(1, 9000, (DATES, HEIGHT, WIDTH, 10)).astype(np.uint16),
        "masks": random.integers(0, 2, (DATES, HEIGHT, WIDTH)).astype(np.uint8),
        "doys": np.arange(10, 10 + 5 * DATES, 5).astype(np.uint16),
        "sar_ascending": random.integers(1, 9000, (PASSES, HEIGHT, WIDTH, 2)).astype(np.int16),
        "sar_ascending_doy": np.arange(3, 3 + 12 * PASSES, 12).astype(np.int16),
    }


def padded(array: np.ndarray) -> np.ndarray:
    if array.ndim == 1:
        return array
    beyond = [(0, 0), (0, SIDE - HEIGHT), (0, SIDE - WIDTH), (0, 0)]
    return np.pad(array, beyond[: array.ndim])


def write_source(source: Path, arrays: Arrays, place: str = PLACE) -> Path:
    folder = source / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def write_raster(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "height": len(values), "width": len(values[0]), "count": 1}
    transform = rasterio.transform.from_origin(500000, 5700000, 10, 10)
    with rasterio.open(
        path, "w", **profile, dtype=values.dtype, crs="EPSG:32631", transform=transform
    ) as sink:
        sink.write(values, 1)


def run(tmp_path: Path, *, year: int = 0) -> ImportReport:
    """Import; random numbers are no land, so what they mean is not asked."""
    return import_archive(tmp_path / "source", tmp_path / "archive", year=year, force=True)


def imported(tmp_path: Path) -> Arrays:
    (ref,) = find_tiles(tmp_path / "archive")
    read_tile(ref)
    return {path.stem: np.load(path) for path in sorted(ref.folder.glob("*.npy"))}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


def changes_of(tmp_path: Path) -> list[str]:
    (ref,) = find_tiles(tmp_path / "archive")
    found = json.loads((ref.folder / "source.json").read_text())["imported"]["changes"]
    return list(found)


def test_a_tile_in_the_layout_is_copied_byte_for_byte(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "source", make_arrays())
    run(tmp_path)
    assert changes_of(tmp_path) == []
    for path in folder.iterdir():
        copy = tmp_path / "archive" / "tiles" / NAME / path.name
        assert copy.read_bytes() == path.read_bytes()


def test_a_padded_tile_is_cut_to_its_name_with_its_region_and_labels(tmp_path: Path) -> None:
    arrays, region = make_arrays(), np.zeros((SIDE, SIDE), np.uint8)
    region[1:HEIGHT, :WIDTH] = 1
    labels = padded(np.arange(1, 1 + HEIGHT * WIDTH, dtype=np.uint16).reshape(1, HEIGHT, WIDTH))[0]
    folder = write_source(tmp_path / "source", {n: padded(a) for n, a in arrays.items()})
    write_raster(folder / "roi.tiff", region)
    write_raster(tmp_path / "source" / "labels" / f"{PLACE}_crop.tif", labels)
    run(tmp_path, year=2021)
    assert_same(imported(tmp_path), arrays)
    assert any("9 x 9 px to 5 x 7 px" in change for change in changes_of(tmp_path))
    (ref,) = find_tiles(tmp_path / "archive")
    assert np.array_equal(read_tile(ref).region, region[:HEIGHT, :WIDTH] != 0)
    label = find_labels(tmp_path / "archive", ref)["crop"]
    assert np.array_equal(read_raster(label), labels[:HEIGHT, :WIDTH])
    with rasterio.open(ref.folder / "roi.tiff") as cut, rasterio.open(folder / "roi.tiff") as whole:
        assert cut.transform == whole.transform
        assert cut.crs == whole.crs


@pytest.mark.parametrize("name", ["bands", "masks", "sar_ascending"])
def test_numbers_beyond_the_name_are_never_cut_off(name: str, tmp_path: Path) -> None:
    arrays = {n: padded(array) for n, array in make_arrays().items()}
    arrays[name][DATES // 2, HEIGHT, WIDTH - 1] = 1
    write_source(tmp_path / "source", arrays)
    report = run(tmp_path)
    assert f"{name}.npy: expected only zeros beyond the 5 x 7 px" in report.failed[PLACE]
    assert not (tmp_path / "archive" / "tiles" / NAME).exists()


def test_a_tile_smaller_than_its_name_is_refused(tmp_path: Path) -> None:
    write_source(tmp_path / "source", make_arrays(), "retiled_d_pixel/0_0_9_9")
    assert "found 5 x 7 px" in run(tmp_path).failed["retiled_d_pixel/0_0_9_9"]


@pytest.mark.parametrize("days", [np.int16, np.int32, np.int64, np.dtype(">u2")])
def test_days_of_any_width_are_written_as_the_layout_has_them(days: type, tmp_path: Path) -> None:
    arrays = make_arrays()
    found = {n: a.astype(days) if "doy" in n else a for n, a in arrays.items()}
    write_source(tmp_path / "source", found)
    run(tmp_path)
    assert_same(imported(tmp_path), arrays)


def test_truth_values_wide_integers_and_fortran_order_are_put_right(tmp_path: Path) -> None:
    arrays = make_arrays()
    found = arrays | {
        "masks": arrays["masks"].astype(bool),
        "bands": np.asfortranarray(arrays["bands"].astype(np.int32)),
    }
    write_source(tmp_path / "source", found)
    run(tmp_path)
    assert_same(imported(tmp_path), arrays)
    assert changes_of(tmp_path) == [
        "bands.npy: int32 to uint16",
        "bands.npy: Fortran order to C order",
        "masks.npy: bool to uint8",
    ]


def test_unsorted_dates_are_sorted_with_their_images_and_equal_days_stay_in_order(
    tmp_path: Path,
) -> None:
    arrays = make_arrays()
    arrays["doys"][3] = arrays["doys"][2]
    shuffle = np.array([4, 2, 3, 5, 0, 1])
    found = arrays | {name: arrays[name][shuffle] for name in ("bands", "masks", "doys")}
    write_source(tmp_path / "source", found)
    run(tmp_path)
    assert_same(imported(tmp_path), arrays)


def test_an_orbit_without_dates_is_left_out_and_an_absent_one_is_legal(tmp_path: Path) -> None:
    arrays = make_arrays()
    empty = {"sar_descending": np.zeros(0, np.int16), "sar_descending_doy": np.zeros(0, np.int16)}
    write_source(tmp_path / "source", arrays | empty)
    run(tmp_path)
    assert_same(imported(tmp_path), arrays)
    assert changes_of(tmp_path) == ["sar_descending: left out, it has no date"]


FAULTS = {
    "a missing mask": ("masks", None, "no such file"),
    "a mask of 2": ("masks", np.full((DATES, HEIGHT, WIDTH), 2, np.uint8), "0..1"),
    "a number too large": (
        "bands",
        np.full((DATES, HEIGHT, WIDTH, 10), 65536, np.int32),
        "0..65535",
    ),
    "a negative radar code": (
        "sar_ascending",
        np.full((PASSES, HEIGHT, WIDTH, 2), -1, np.int16),
        "0..32767",
    ),
    "reflectances": ("bands", np.ones((DATES, HEIGHT, WIDTH, 10), np.float32), "whole numbers"),
    "eleven bands": ("bands", np.ones((DATES, HEIGHT, WIDTH, 11), np.uint16), "WIDTH, 10)"),
    "a day 0": ("doys", np.arange(DATES), "1..366"),
    "a day too many": ("doys", np.arange(1, DATES + 2), f"({DATES})"),
    "a pickle": ("doys", np.array([1, "x", None, 4, 5, 6], object), "readable"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tile_that_cannot_be_imported_is_listed_and_the_others_are_done(
    fault: str, tmp_path: Path
) -> None:
    name, array, reason = FAULTS[fault]
    write_source(tmp_path / "source", make_arrays(), "bad/" + NAME)
    write_source(tmp_path / "source", make_arrays(), "good/" + NAME)
    path = tmp_path / "source" / "bad" / NAME / f"{name}.npy"
    path.unlink()
    if array is not None:
        np.save(path, array, allow_pickle=True)
    report = run(tmp_path)
    assert list(report.tiles) == ["good/" + NAME]
    assert list(report.failed) == ["bad/" + NAME]
    assert reason.replace("WIDTH", str(WIDTH)) in report.failed["bad/" + NAME]
    assert [ref.key for ref in find_tiles(tmp_path / "archive")] == ["good/" + NAME]


def test_places_and_years_keep_equal_names_apart(tmp_path: Path) -> None:
    for place in ("north/retiled_d_pixel", "south/2020/tiles"):
        write_source(tmp_path / "source", make_arrays(), f"{place}/{NAME}")
    report = run(tmp_path)
    assert sorted(report.tiles) == [f"2020/south/{NAME}", f"north/{NAME}"]
    keys = {ref.key: ref.year for ref in find_tiles(tmp_path / "archive")}
    assert keys == {f"2020/south/{NAME}": 2020, f"north/{NAME}": 0}


def test_a_year_that_the_path_contradicts_is_refused(tmp_path: Path) -> None:
    write_source(tmp_path / "source", make_arrays(), f"2020/{NAME}")
    assert "found the year 2020" in run(tmp_path, year=2021).failed[f"2020/{NAME}"]


def test_the_same_command_again_does_nothing_twice_and_never_overwrites(tmp_path: Path) -> None:
    arrays = make_arrays()
    write_source(tmp_path / "source", arrays)
    run(tmp_path)
    before = {path: sha256_of(path) for path in files_below(tmp_path / "archive")}
    assert run(tmp_path).kept == [NAME]
    arrays["bands"][0, 0, 0, 0] += 1
    write_source(tmp_path / "source", arrays)
    assert "made from other files" in run(tmp_path).failed[PLACE]
    assert {path: sha256_of(path) for path in files_below(tmp_path / "archive")} == before


def test_what_a_crash_left_is_no_tile_and_is_cleared(tmp_path: Path) -> None:
    arrays = make_arrays()
    write_source(tmp_path / "source", arrays)
    write_source(tmp_path / "archive", arrays, ".importing/tile")
    (tmp_path / "archive" / "tiles").mkdir()
    assert find_tiles(tmp_path / "archive", least=0) == []
    assert list(run(tmp_path).tiles) == [NAME]
    assert not (tmp_path / "archive" / ".importing").exists()


def test_the_source_is_only_read(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "source", make_arrays())
    for path in folder.iterdir():
        path.chmod(0o444)
    before = {path: (path.stat().st_mtime_ns, sha256_of(path)) for path in folder.iterdir()}
    run(tmp_path)
    assert {path: (path.stat().st_mtime_ns, sha256_of(path)) for path in folder.iterdir()} == before


def test_origin_of_the_data_is_kept(tmp_path: Path) -> None:
    write_source(tmp_path / "source", make_arrays())
    (tmp_path / "source" / "source.json").write_text('{"source": "mpc"}')
    run(tmp_path)
    (ref,) = find_tiles(tmp_path / "archive")
    assert json.loads((ref.folder / "source.json").read_text())["source"] == "mpc"


def test_a_label_that_does_not_fit_stays_behind_by_name(tmp_path: Path) -> None:
    write_source(tmp_path / "source", make_arrays())
    labels = np.ones((HEIGHT, WIDTH + 1), np.uint16)
    write_raster(tmp_path / "source" / "labels" / f"{PLACE}_crop.tif", labels)
    run(tmp_path)
    assert changes_of(tmp_path) == ["label crop: left out: shape (5, 8), not (5, 7)"]
    assert not (tmp_path / "archive" / "labels").exists()


def test_an_archive_whose_tiles_would_be_hidden_is_refused(tmp_path: Path) -> None:
    write_source(tmp_path / "source", make_arrays())
    write_source(tmp_path / "archive", make_arrays(), "0_0_7_5")
    with pytest.raises(DataError, match="tiles in tiles/"):
        run(tmp_path)


def test_a_year_for_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    with pytest.raises(ParamsError, match="--year"):
        run(tmp_path, year=2021)


def test_a_broken_table_is_listed_by_its_own_path_and_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"PAR1 and nothing more")
    reason = run(tmp_path).failed["source"]
    assert reason.startswith(f"{source}: expected a readable Parquet file")
    assert not (tmp_path / "archive" / "points").exists()


def test_an_archive_inside_its_source_is_refused(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "source", make_arrays())
    for out in (tmp_path / "source" / "archive", tmp_path / "source", tmp_path):
        with pytest.raises(DataError, match="apart from the source"):
            import_archive(tmp_path / "source", out)
    assert {path.parent for path in files_below(tmp_path)} == {folder}


def test_a_tile_that_is_refused_leaves_no_label_behind(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["bands"][DATES // 2 :] = 0
    write_source(tmp_path / "source", arrays)
    path = tmp_path / "source" / "labels" / f"{PLACE}_crop.tif"
    write_raster(path, np.ones((HEIGHT, WIDTH), np.uint8))
    report = import_archive(tmp_path / "source", tmp_path / "archive")
    assert "only zeros in" in report.failed[PLACE]
    assert not (tmp_path / "archive" / "labels").exists()


def test_real_data_are_the_same_after_the_import(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "data"
    report = import_archive(source / "be2018", tmp_path, year=2018)
    assert (list(report.tiles), report.failed) == (["2018/0_0_64_64"], {})
    folder = source / "be2018" / "tiles" / "0_0_64_64"
    for path in (tmp_path / "tiles" / "2018" / "0_0_64_64").glob("*.npy"):
        assert path.read_bytes() == (folder / path.name).read_bytes()
    (ref,) = find_tiles(tmp_path)
    assert sorted(find_labels(tmp_path, ref)) == ["crop_type", "land_cover", "parcel"]
    for table, rows in (("korea_parcels", 800), ("fuel_moisture", 2313)):
        path = source / f"{table}.parquet"
        assert import_archive(path, tmp_path).tables == {path.name: rows}
        assert (tmp_path / "points" / path.name).read_bytes() == path.read_bytes()
        assert import_archive(path, tmp_path).kept == [f"points/{path.name}"]


def test_exchanged_bands_are_refused_unless_forced(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "data" / "be2018" / "tiles" / "0_0_64_64"
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    arrays["bands"] = arrays["bands"][..., [1, 2, 0, 5, 6, 7, 3, 4, 8, 9]]
    place = "retiled_d_pixel/0_0_64_64"
    write_source(tmp_path / "source", arrays, place)
    report = import_archive(tmp_path / "source", tmp_path / "archive")
    assert "bands in the order B04 B02 B03" in report.failed[place]
    assert run(tmp_path).failed == {}
