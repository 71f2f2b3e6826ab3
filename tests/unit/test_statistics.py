"""The measurements behind the expectations, against closed forms and hand-made tiles."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series, offsets_of
from tasks.params import read_params
from tasks.settings.data import ValidateParams
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.tile import SimulatedTile, simulate_tile
from tasks.tiles import TileRef
from tasks.validation.agreement import mask_fit, place_fit
from tasks.validation.band_order import best_order, detail_of, land_of, neighbour_ratios
from tasks.validation.checks import Check, archive_checks, digest_of_checks
from tasks.validation.expectations import judge, shard_verdict
from tasks.validation.optical import measure_optical, num_repeated, sampled_rows
from tasks.validation.survey import survey_tile
from tasks.validation.tables import shard_statistics
from tasks.validation.verdict import Failure, Verdict
from tasks.validation.verdict_page import render


@pytest.fixture(scope="module")
def tile() -> SimulatedTile:
    config = SimulatorConfig(seed=9, num_tiles=1, tile_size_px=32, years=(2022,))
    return simulate_tile(config, 0, 2022)


@pytest.fixture(scope="module")
def limits() -> ValidateParams:
    return read_params(Path(__file__).parents[2] / "params.yaml").validate_


def land(tile: SimulatedTile) -> np.ndarray:
    return land_of(tile.bands[tile.masks != 0].astype(np.float32))


def test_given_order_is_the_best_one_for_a_correct_tile(tile: SimulatedTile) -> None:
    assert best_order(land(tile)) == (S2_BANDS, 0.0)


@pytest.mark.parametrize("turn", range(1, 10))
def test_every_rotation_is_read_off_the_spectra(tile: SimulatedTile, turn: int) -> None:
    order, gain = best_order(np.roll(land(tile), turn, axis=1))
    assert order == tuple(np.roll(S2_BANDS, turn).tolist())
    assert gain > 5


def test_order_is_not_judged_over_water_and_cloud() -> None:
    water = np.full((1000, 10), 300.0)
    cloud = np.full((1000, 10), 6000.0)
    assert len(land_of(water)) == len(land_of(cloud)) == 0
    assert best_order(land_of(water)) == (S2_BANDS, 0.0)
    assert neighbour_ratios(land_of(water)) == {}


def test_land_is_the_same_whatever_the_order(tile: SimulatedTile) -> None:
    spectra = tile.bands[tile.masks != 0].astype(np.float32)
    shuffled = spectra[:, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]]
    assert len(land_of(shuffled)) == len(land_of(spectra))


def test_detail_of_white_noise_over_repeated_pixels_is_as_computed() -> None:
    # Differences of white noise are equally large at every lag (1). Of pixels repeated in pairs,
    # half of the neighbours are equal (1/2) and those two apart never are (1): a ratio of 2.
    rng = np.random.default_rng(4)
    values = np.repeat(rng.normal(size=(4, 8, 500, 10)), 2, axis=2)
    values[..., :4] = rng.normal(size=(4, 8, 1000, 4))
    found = detail_of(values, np.ones(values.shape[:3], bool))
    assert list(found) == list(S2_BANDS[:4])
    assert list(found.values()) == pytest.approx([2.0] * 4, rel=0.03)


def test_statistics_of_a_tile_that_can_be_counted_by_hand() -> None:
    bands = np.full((2, 1, 4, 10), 500, np.uint16)
    bands[0, 0, 0, 9] = 2000  # beside it a 0 is no measurement
    bands[0, 0, :, 2] = (0, 1, 2, 65000)
    masks = np.array([[[1, 1, 1, 1]], [[0, 0, 3, 0]]], np.uint8)
    series, rows = measure_optical(bands, masks)
    green = rows[2]
    assert series["clear_share"] == 5 / 8
    assert series["bad_flags"] == 1
    assert green["nodata_share"] == 1 / 5
    assert green["floor_share"] == 2 / 5
    assert green["wrapped_share"] == 1 / 8
    assert (green["min"], green["max"]) == (0, 65000)
    assert green["mean"] == (0 + 1 + 2 + 65000 + 500) / 5


def test_one_number_that_is_not_finite_is_counted_and_spoils_nothing_else() -> None:
    bands = np.full((2, 3, 5, 10), 400, np.float32)
    bands[1, 2, 3, 4] = np.nan
    _, rows = measure_optical(bands, np.ones((2, 3, 5), np.uint8))
    assert [row["nan_share"] for row in rows] == [0, 0, 0, 0, 1 / 30, 0, 0, 0, 0, 0]
    assert all(row["mean"] == 400 for row in rows)


def test_masks_of_this_tile_fit_and_mirrored_ones_do_not(tile: SimulatedTile) -> None:
    values, clear = tile.bands.astype(np.float32), tile.masks != 0
    right, mirrored = mask_fit(values, clear), mask_fit(values, clear[:, ::-1])
    assert right is not None
    assert mirrored is not None
    assert right > 0.08
    assert mirrored < 0


def test_radar_of_this_tile_fits_and_turned_radar_does_not() -> None:
    config = SimulatorConfig(seed=9, num_tiles=1, tile_size_px=40, years=(2022,))
    tile = simulate_tile(config, 0, 2022)
    values, clear = tile.bands.astype(np.float32), tile.masks != 0
    codes = tile.sar_ascending.astype(np.float32)
    right, turned = place_fit(values, clear, codes), place_fit(values, clear, codes[:, ::-1, ::-1])
    assert right is not None
    assert turned is not None
    assert right > 0.04
    assert turned < 0


def test_radar_without_structure_is_not_judged(tile: SimulatedTile) -> None:
    noise = np.random.default_rng(1).normal(5000, 800, tile.sar_ascending.shape)
    assert place_fit(tile.bands.astype(np.float32), tile.masks != 0, noise) is None


def test_radar_along_a_straight_coast_is_not_judged_by_moves_that_change_nothing() -> None:
    rng = np.random.default_rng(6)
    water = np.broadcast_to(np.arange(40) < 20, (12, 40, 40))[..., None]
    values = np.where(water, 300, 2000) + rng.normal(0, 20, (12, 40, 40, 10))
    codes = np.where(water, 2000, 5000) + rng.normal(0, 500, (12, 40, 40, 2))
    assert place_fit(values, np.ones(values.shape[:3], bool), codes) is None


def test_desert_is_like_no_order_of_bands_and_not_judged() -> None:
    rng = np.random.default_rng(2)
    sand = np.array([2900, 1511, 2150, 3500, 3600, 3150, 3300, 3450, 4300, 3900])
    land = sand * rng.normal(1, 0.1, (5000, 1)) * rng.normal(1, 0.01, (5000, 10))
    assert best_order(np.roll(land, 3, axis=1)) == (S2_BANDS, 0.0)
    assert best_order(land) == (S2_BANDS, 0.0)


def test_equal_images_are_counted_and_empty_ones_are_not() -> None:
    images = np.zeros((6, 2, 2), np.uint16)
    images[1:4] = 7
    images[5] = 8
    assert num_repeated(images) == 2


@pytest.mark.parametrize(("height", "width", "expected"), [(40, 40, 40), (500, 500, 16), (3, 9, 3)])
def test_large_tiles_are_sampled_by_evenly_spaced_rows(
    height: int, width: int, expected: int
) -> None:
    rows = sampled_rows(height, width)
    assert len(rows) == len(set(rows.tolist())) == expected
    assert 0 <= rows.min() <= rows.max() < height


def test_survey_of_an_empty_folder_notes_every_optical_file(tmp_path: Path) -> None:
    survey = survey_tile(TileRef("2021/a", tmp_path))
    assert [(row["file"], row["fault"]) for row in survey.files] == [
        ("bands.npy", 1),
        ("masks.npy", 1),
        ("doys.npy", 1),
    ]
    assert survey.bands is None


def series(num: int, bands: int, dtype: str, counts: list[int], days: list[int]) -> Series:
    values = np.full((num, bands), 3000, dtype)
    values[:] += np.where(np.arange(num) % 2, 10, -10)[:, None].astype(dtype)
    return Series(values, np.array(days, np.int16), offsets_of(np.array(counts)))


def make_dpixels(ids: list[int], days: list[int]) -> DPixels:
    """Two d-pixels, two optical observations and one ascending one each."""
    empty = Series(np.zeros((0, 2), np.int16), np.zeros(0, np.int16), np.zeros(3, np.int64))
    radar = series(2, 2, "i2", [1, 1], [9, 9])
    radar.values[:, 1] = 1000
    return DPixels(np.array(ids, np.uint64), series(4, 10, "u2", [2, 2], days), radar, empty)


def test_shard_statistics_by_hand() -> None:
    row = shard_statistics("s.arrow", make_dpixels([5, (1 << 32) + 5], [3, 8, 7, 200]))
    assert row["shard"] == "s.arrow"
    assert (row["rows"], row["tiles"]) == (2, 2)
    assert (row["s2_observations"], row["s1_observations"]) == (4, 2)
    assert (row["min_s2"], row["min_s1"]) == (2, 1)
    assert (row["doy_min"], row["doy_max"]) == (3, 200)
    assert (row["duplicate_ids"], row["unordered"], row["zero_dn_share"]) == (0, 0, 0)
    assert [row[f"s2_mean_{band}"] for band in S2_BANDS] == [3000.0] * 10
    assert [row[f"s1_mean_{band}"] for band in S1_BANDS] == [3000.0, 1000.0]


def test_shards_with_doubled_ids_and_days_out_of_order_are_refused() -> None:
    good = shard_statistics("good", make_dpixels([1, 2], [3, 8, 7, 200]))
    bad = shard_statistics("bad", make_dpixels([5, 5], [8, 8, 7, 200]))
    assert shard_verdict([good]).failures == ()
    found = [(f.tile, f.expectation) for f in shard_verdict([good, bad]).failures]
    assert found == [("bad", "no_duplicate_ids"), ("bad", "no_unordered")]


def test_shard_that_is_no_random_sample_is_refused() -> None:
    row = shard_statistics("a", make_dpixels([1, 2], [3, 8, 7, 200])) | {"rows": 1000}
    rows = [row | {"shard": name} for name in "abcdef"]
    assert shard_verdict(rows).failures == ()
    rows[2] = rows[2] | {"s2_mean_B08": 6000.0}
    assert [(f.tile, f.expectation) for f in shard_verdict(rows).failures] == [("c", "shuffled")]


def test_drift_weighs_shards_by_observations_and_narrows_with_their_rows() -> None:
    row = shard_statistics("a", make_dpixels([1, 2], [3, 8, 7, 200])) | {"rows": 512}
    thin = row | {"shard": "b", "s2_observations": 1, "s2_mean_B08": 3600.0}
    thick = row | {"shard": "c", "s2_observations": 10**6}
    assert shard_verdict([row, thin, thick]).failures == ()  # 0.2 above the mean, 3000
    large = [{**shard, "rows": 2048} for shard in (row, thin, thick)]  # half of the scatter: 0.4
    assert [(f.tile, f.expectation) for f in shard_verdict(large).failures] == [("b", "shuffled")]


def test_no_shard_at_all_is_refused() -> None:
    assert not shard_verdict([]).success


def test_column_that_is_missing_is_a_failure_and_an_empty_cell_is_not() -> None:
    table = pd.DataFrame({"tile": ["a"], "sensor": "", "band": "", "x": [np.nan]})
    present = Check("present", "t", "x", 0, 1, "out of range")
    absent = Check("absent", "t", "y", 0, 1, "out of range")
    assert judge({"t": table}, [present], {"t": 1}).success
    failures = judge({"t": table}, [present, absent], {"t": 1}).failures
    assert [(f.expectation, f.found) for f in failures] == [("absent", "not measurable")]


def test_suite_digest_follows_every_limit(limits: ValidateParams) -> None:
    digests = {
        digest_of_checks(archive_checks(limits.model_copy(update={name: value})))
        for name, value in (
            ("min_optical_dates", 11),
            ("min_radar_dates", 11),
            ("max_undetected_cloud", 0.5),
            ("min_clear_share", 0.5),
            ("max_dark_dn", 500.0),
            ("max_order_gain", 0.5),
        )
    }
    assert len(digests | {digest_of_checks(archive_checks(limits))}) == 7


def test_names_of_checks_are_unique_within_a_table(limits: ValidateParams) -> None:
    names = [(check.table, check.name) for check in archive_checks(limits)]
    assert len(names) == len(set(names))


def test_summary_names_the_first_failures_and_counts_the_rest() -> None:
    failures = tuple(Failure(f"t{i}", "s2", "B04", "scale", "1", "x >= 2") for i in range(7))
    text = Verdict((), failures, "0" * 64, {}).summary()
    assert text.startswith("7 failures: t0 s2 B04: scale: found 1, expected x >= 2; ")
    assert text.endswith("and 2 more")


def test_page_escapes_what_an_archive_may_call_its_tiles() -> None:
    failure = Failure("<script>", "s2", "", "scale", "1", "x >= 2")
    page = render(Verdict((), (failure,), "0" * 64, {"tiles": 1}), {})
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
