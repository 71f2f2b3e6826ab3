from pathlib import Path

import numpy as np
import pytest
import rasterio

from models.bands import S2_BANDS
from tasks.errors import DataError
from tasks.tiles import TileRef, dpixels_of, find_labels, find_tiles, read_tile

HEIGHT, WIDTH, DATES, PASSES = 3, 4, 6, 5


def write_tile(folder: Path, *, days: type[np.generic] = np.int16) -> dict[str, np.ndarray]:
    """Write a small tile of random numbers in the public layout."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {
        "bands": random.integers(1, 9000, (DATES, HEIGHT, WIDTH, len(S2_BANDS))).astype(np.uint16),
        "masks": random.integers(0, 2, (DATES, HEIGHT, WIDTH)).astype(np.uint8),
        "doys": np.arange(10, 10 + 5 * DATES, 5).astype(np.uint16),
        "sar_ascending": random.integers(0, 2, (PASSES, HEIGHT, WIDTH, 2)).astype(np.int16) * 4000,
        "sar_ascending_doy": np.arange(3, 3 + 12 * PASSES, 12).astype(days),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return arrays


def write_raster(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1}
    transform = rasterio.transform.from_origin(500000, 5700000, 10, 10)
    with rasterio.open(
        path, "w", **profile, dtype=values.dtype, crs="EPSG:32631", transform=transform
    ) as sink:
        sink.write(values, 1)


@pytest.fixture
def tile(tmp_path: Path) -> TileRef:
    write_tile(tmp_path / "tiles" / "2021" / "0_0_4_3")
    return find_tiles(tmp_path)[0]


def test_year_comes_from_the_parent_folder(tmp_path: Path) -> None:
    write_tile(tmp_path / "tiles" / "2022" / "0_0_4_3")
    write_tile(tmp_path / "tiles" / "2021" / "0_0_4_3")
    found = find_tiles(tmp_path)
    assert [(ref.key, ref.year, ref.name) for ref in found] == [
        ("2021/0_0_4_3", 2021, "0_0_4_3"),
        ("2022/0_0_4_3", 2022, "0_0_4_3"),
    ]


def test_archive_without_a_tiles_folder_or_years_is_read_too(tmp_path: Path) -> None:
    write_tile(tmp_path / "0_0_4_3")
    assert [(ref.key, ref.year) for ref in find_tiles(tmp_path)] == [("0_0_4_3", 0)]


def test_empty_archive_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tessera sample"):
        find_tiles(tmp_path / "nowhere")


def test_archive_that_is_itself_a_tile_is_refused(tmp_path: Path) -> None:
    write_tile(tmp_path / "0_0_4_3")
    with pytest.raises(DataError, match="Name the folder above the tile"):
        find_tiles(tmp_path / "0_0_4_3")


def test_tile_inside_another_is_refused(tmp_path: Path) -> None:
    write_tile(tmp_path / "0_0_4_3")
    write_tile(tmp_path / "0_0_4_3" / "copy" / "0_0_4_3")
    with pytest.raises(DataError, match="none inside another"):
        find_tiles(tmp_path)


def test_tile_without_bands_is_still_found(tmp_path: Path) -> None:
    write_tile(tmp_path / "0_0_4_3")
    for name in ("bands", "sar_ascending"):
        (tmp_path / "0_0_4_3" / f"{name}.npy").unlink()
    assert [ref.key for ref in find_tiles(tmp_path)] == ["0_0_4_3"]


def test_only_valid_observations_are_collected_in_time_order(tile: TileRef) -> None:
    opened = read_tile(tile)
    found = dpixels_of(opened, np.arange(HEIGHT * WIDTH), 0)
    for pixel in range(HEIGHT * WIDTH):
        row, column = divmod(pixel, WIDTH)
        times = [t for t in range(DATES) if opened.valid[t, row, column]]
        one = found.take(np.array([pixel]))
        assert one.s2.doy.tolist() == [opened.doys[t] for t in times]
        assert one.s2.values.tolist() == [opened.bands[t, row, column].tolist() for t in times]


def test_radar_zero_in_both_channels_is_no_observation(tile: TileRef) -> None:
    opened = read_tile(tile)
    values, _ = opened.radar["sar_ascending"]
    found = dpixels_of(opened, np.arange(HEIGHT * WIDTH), 0)
    expected = [int((values[:, i // WIDTH, i % WIDTH] != 0).any(axis=1).sum()) for i in range(12)]
    assert found.s1_asc.counts.tolist() == expected
    assert found.s1_desc.counts.tolist() == [0] * 12


@pytest.mark.parametrize("days", [np.int16, np.int32])
def test_both_published_day_types_are_read(days: type[np.generic], tmp_path: Path) -> None:
    write_tile(tmp_path / "0_0_4_3", days=days)
    assert read_tile(find_tiles(tmp_path)[0]).radar["sar_ascending"][1][0] == 3


def test_pixels_outside_the_region_raster_are_marked(tile: TileRef) -> None:
    region = np.ones((HEIGHT, WIDTH), np.uint8)
    region[0] = 0
    write_raster(tile.folder / "roi.tiff", region)
    assert np.array_equal(read_tile(tile).region, region == 1)


@pytest.mark.parametrize("name", ["masks.npy", "doys.npy", "bands.npy", "sar_ascending_doy.npy"])
def test_missing_file_is_refused_by_name(name: str, tile: TileRef) -> None:
    (tile.folder / name).unlink()
    with pytest.raises(DataError, match=f"tile 2021/0_0_4_3: expected a readable {name}"):
        read_tile(tile)


def test_radar_of_another_size_is_refused(tile: TileRef) -> None:
    np.save(tile.folder / "sar_ascending.npy", np.ones((PASSES, HEIGHT + 1, WIDTH, 2), np.int16))
    with pytest.raises(DataError, match=r"sar_ascending\.npy as int16"):
        read_tile(tile)


def test_pickled_array_is_never_loaded(tile: TileRef) -> None:
    np.save(tile.folder / "doys.npy", np.array([{"a": 1}] * DATES, dtype=object))
    with pytest.raises(DataError, match=r"doys\.npy"):
        read_tile(tile)


def test_labels_are_found_by_tile_and_year(tmp_path: Path) -> None:
    write_tile(tmp_path / "tiles" / "2021" / "0_0_4_3")
    for name in ("0_0_4_3_land_cover", "0_0_4_3_biomass", "0_0_4_33_parcel"):
        write_raster(tmp_path / "labels" / "2021" / f"{name}.tif", np.ones((3, 4), np.uint8))
    found = find_labels(tmp_path, find_tiles(tmp_path)[0])
    assert sorted(found) == ["biomass", "land_cover"]


def test_label_belongs_to_the_tile_with_the_longest_matching_name(tmp_path: Path) -> None:
    for name in ("x[1]", "x[1]_north"):
        write_tile(tmp_path / "tiles" / name)
    (tmp_path / "tiles" / "x[1]_crop").mkdir()  # no tile, so it owns no label
    (tmp_path / "labels").mkdir()
    for name in ("x[1]_crop_type", "x[1]_crop", "x[1]_north_crop"):
        (tmp_path / "labels" / f"{name}.tif").touch()
    short, long = (find_labels(tmp_path, ref) for ref in find_tiles(tmp_path))
    assert short == {
        "crop": tmp_path / "labels" / "x[1]_crop.tif",
        "crop_type": tmp_path / "labels" / "x[1]_crop_type.tif",
    }
    assert long == {"crop": tmp_path / "labels" / "x[1]_north_crop.tif"}


def test_real_tile_is_read(shared_data: Path) -> None:
    ref = find_tiles(shared_data / "data" / "be2018")[0]
    opened = read_tile(ref)
    assert opened.shape == (64, 64)
    assert opened.bands.shape[0] == 91
    assert sorted(opened.radar) == ["sar_ascending"]
    assert len(opened.radar["sar_ascending"][1]) == 109
    found = dpixels_of(opened, np.arange(64 * 64), 0)
    assert found.s2.counts.mean() / 91 == pytest.approx(0.62, abs=0.01)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (8, 5, 6",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (8, -5, 6, 10), }",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999, 5, 6, 10), }",
        b"{'descr': ',u2', 'fortran_order': False, 'shape': (8, 5, 6, 10), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (8, 5, 6, 10), }",
    ],
    ids=["cut", "negative", "absurd", "type", "objects"],
)
def test_damaged_header_is_refused_by_tile_and_file(header: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_tile(folder)
    padded = header.ljust(118 - 1) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + bytes(4800)
    (folder / "bands.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"tile a: expected a readable bands\.npy"):
        read_tile(TileRef("a", folder))


def test_region_in_another_format_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_tile(folder)
    write_raster(tmp_path / "outside.tif", np.ones((HEIGHT, WIDTH), np.uint8))
    (folder / "roi.tiff").write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="3"><VRTRasterBand dataType="Byte" band="1">'
        f"<SimpleSource><SourceFilename>{tmp_path / 'outside.tif'}</SourceFilename>"
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(DataError, match="a readable GeoTIFF"):
        read_tile(TileRef("a", folder))
