import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bands import NORMALISATIONS
from tasks.embedding.plausibility import check_block, check_source, check_tile
from tasks.errors import DataError
from tasks.tiles import Tile, TileRef, dpixels_of, find_tiles, read_tile
from tests.embedding import tile_arrays, write_arrays
from tests.unit.test_tiles import write_raster

AWS, MPC = NORMALISATIONS["tessera-v1.1-aws"], NORMALISATIONS["tessera-v1.1-mpc"]
ANY = NORMALISATIONS["tessera-v2-student"]


def _opened(folder: Path) -> Tile:
    return read_tile(TileRef(folder.name, folder))


def _check_all(tile: Tile) -> None:
    check_tile(tile)
    rows = np.arange(tile.region.size)
    check_block(tile, rows, dpixels_of(tile, rows, 0))


@pytest.fixture
def real(shared_data: Path) -> dict[str, np.ndarray]:
    """The optical arrays of the real tile."""
    folder = find_tiles(shared_data / "data" / "be2018")[0].folder
    return {name: np.load(folder / f"{name}.npy") for name in ("bands", "masks", "doys")}


def test_real_tile_is_accepted(real: dict[str, np.ndarray], tmp_path: Path) -> None:
    _check_all(_opened(write_arrays(tmp_path / "be", real)))


def test_golden_tile_is_accepted(shared_data: Path) -> None:
    _check_all(_opened(shared_data / "golden" / "tiles" / "a"))


def test_tile_of_plain_noise_is_accepted(tmp_path: Path) -> None:
    _check_all(_opened(write_arrays(tmp_path / "a", tile_arrays())))


def test_real_bands_in_reverse_are_refused(real: dict[str, np.ndarray], tmp_path: Path) -> None:
    real["bands"] = real["bands"][..., ::-1]
    with pytest.raises(DataError, match=r"bands\.npy of tile be.*look like B12 B11 B07"):
        _check_all(_opened(write_arrays(tmp_path / "be", real)))


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (2, 3), (3, 8), (8, 9)])
def test_two_real_bands_exchanged_are_refused(
    one: int, other: int, real: dict[str, np.ndarray], tmp_path: Path
) -> None:
    real["bands"][..., [one, other]] = real["bands"][..., [other, one]]
    with pytest.raises(DataError, match=r"bands\.npy of tile be"):
        _check_all(_opened(write_arrays(tmp_path / "be", real)))


def test_real_masks_inverted_are_refused(real: dict[str, np.ndarray], tmp_path: Path) -> None:
    real["masks"] = 1 - real["masks"]
    with pytest.raises(DataError, match=r"masks\.npy of tile be.*inverted"):
        _check_all(_opened(write_arrays(tmp_path / "be", real)))


def _unimaged(arrays: dict[str, np.ndarray], where: str) -> None:
    """Leave zeros where a swath or the tile's own raster ends."""
    gone: Any = {
        "a third of the dates": np.s_[::3],
        "half of the dates": np.s_[::2],
        "a third of the tile": np.s_[:, -len(arrays["masks"][0]) // 3 :],
    }[where]
    arrays["bands"][gone] = 0
    arrays["masks"][gone] = 0


UNIMAGED = ("a third of the dates", "half of the dates", "a third of the tile")


@pytest.mark.parametrize("where", UNIMAGED)
def test_real_tile_with_unimaged_parts_is_accepted(
    where: str, real: dict[str, np.ndarray], tmp_path: Path
) -> None:
    _unimaged(real, where)
    _check_all(_opened(write_arrays(tmp_path / "be", real)))


@pytest.mark.parametrize("where", UNIMAGED)
def test_inverted_masks_are_refused_although_parts_are_unimaged(
    where: str, real: dict[str, np.ndarray], tmp_path: Path
) -> None:
    _unimaged(real, where)
    real["masks"] = 1 - real["masks"]
    with pytest.raises(DataError, match=r"masks\.npy of tile be.*inverted"):
        _check_all(_opened(write_arrays(tmp_path / "be", real)))


def test_pixels_outside_the_region_are_not_judged(
    real: dict[str, np.ndarray], tmp_path: Path
) -> None:
    real["masks"][:, 20:] = 1 - real["masks"][:, 20:]
    folder = write_arrays(tmp_path / "be", real)
    region = np.zeros(real["masks"].shape[1:], np.uint8)
    region[:20] = 1
    write_raster(folder / "roi.tiff", region)
    _check_all(_opened(folder))


def test_clouds_stored_as_zeros_are_accepted(real: dict[str, np.ndarray], tmp_path: Path) -> None:
    real["bands"][real["masks"] == 0] = 0
    _check_all(_opened(write_arrays(tmp_path / "be", real)))


@pytest.mark.parametrize("clear", [0, 1])
def test_few_imaged_dates_among_many_are_accepted(clear: int, tmp_path: Path) -> None:
    arrays = tile_arrays(dates=40)
    arrays["bands"][3:], arrays["masks"][:] = 0, 0
    arrays["masks"][:3] = clear
    _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


def test_zeros_that_the_masks_call_clear_are_refused(tmp_path: Path) -> None:
    arrays = tile_arrays()
    arrays["bands"][:] = 0
    with pytest.raises(DataError, match=r"bands\.npy of tile a.*found only zeros in 100% of it"):
        _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


def test_year_without_a_clear_observation_is_refused(tmp_path: Path) -> None:
    arrays = tile_arrays(dates=40)
    arrays["masks"][:] = 0
    with pytest.raises(DataError, match=r"masks\.npy of tile a.*all 40 dates cloudy"):
        _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


def test_year_without_any_cloud_is_refused(tmp_path: Path) -> None:
    arrays = tile_arrays(dates=40)
    arrays["masks"][:] = 1
    with pytest.raises(DataError, match=r"masks\.npy of tile a.*all 40 dates clear"):
        _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


def test_few_dates_may_all_be_clear(tmp_path: Path) -> None:
    arrays = tile_arrays(dates=12)  # monthly composites
    arrays["masks"][:] = 1
    _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


def test_one_odd_mask_in_the_last_pixel_is_refused(tmp_path: Path) -> None:
    arrays = tile_arrays()
    arrays["masks"][3, -1, -1] = 255
    with pytest.raises(DataError, match=r"masks\.npy of tile a: expected 0 and 1.*found 255"):
        _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


def test_masks_of_true_and_false_are_accepted(tmp_path: Path) -> None:
    arrays = tile_arrays()
    arrays["masks"] = arrays["masks"].astype(bool)
    _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


@pytest.mark.parametrize("orbit", ["sar_ascending", "sar_descending"])
@pytest.mark.parametrize("code", [-1, -32768, 32767])
def test_radar_code_that_is_none_is_refused(orbit: str, code: int, tmp_path: Path) -> None:
    arrays = tile_arrays()
    arrays[orbit][2, 3, 4, 1] = code
    with pytest.raises(DataError, match=rf"{orbit}\.npy of tile a.*1 others, the first {code}"):
        _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


@pytest.mark.parametrize("code", [1, 32766])
def test_outermost_radar_codes_are_accepted(code: int, tmp_path: Path) -> None:
    arrays = tile_arrays()
    arrays["sar_ascending"][2, 3, 4] = code
    _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


def test_tile_without_optical_dates_is_accepted(tmp_path: Path) -> None:
    arrays = tile_arrays(dates=0)
    _check_all(_opened(write_arrays(tmp_path / "a", arrays)))


@pytest.mark.parametrize("place", [".", "2021", "2021/a"])
def test_record_of_another_source_is_refused_wherever_it_lies(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "2021" / "a"
    folder.mkdir(parents=True)
    (tmp_path / place / "source.json").write_text(json.dumps({"source": "mpc"}))
    with pytest.raises(DataError, match=r"tessera-v1.1-aws \(source aws\); found source mpc"):
        check_source(folder, tmp_path, AWS)
    check_source(folder, tmp_path, MPC)
    check_source(folder, tmp_path, ANY)


def test_nearest_record_counts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "source.json").write_text(json.dumps({"source": "mpc"}))
    (tmp_path / "a" / "source.json").write_text(json.dumps({"source": "aws"}))
    check_source(tmp_path / "a", tmp_path, AWS)


def test_record_above_the_archive_is_not_looked_for(tmp_path: Path) -> None:
    folder = tmp_path / "archive" / "a"
    folder.mkdir(parents=True)
    (tmp_path / "source.json").write_text(json.dumps({"source": "mpc"}))
    check_source(folder, tmp_path / "archive", AWS)


def test_record_of_other_statistics_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source.json").write_text(json.dumps({"normalisation": "tessera-v1.1-mpc"}))
    with pytest.raises(DataError, match=r"found normalisation tessera-v1\.1-mpc"):
        check_source(tmp_path, tmp_path, ANY)
    check_source(tmp_path, tmp_path, MPC)


@pytest.mark.parametrize("content", [b"{", b"null", b'"mpc"', b"[1]", b"\xff\xfe"])
def test_record_that_is_no_object_is_refused_by_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "source.json").write_bytes(content)
    with pytest.raises(DataError, match=r"source\.json: expected a JSON object"):
        check_source(tmp_path, tmp_path, ANY)
