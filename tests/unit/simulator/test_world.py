"""What the simulated sensors see, held against what a remote-sensing person expects."""

from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import balanced_accuracy_score, r2_score

from tasks.simulator import classes
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.ground import survey
from tasks.simulator.optical import OpticalView, observe_optical, parcel_spectra
from tasks.simulator.orbits import OPTICAL, in_swath, passes
from tasks.simulator.parcels import land_use, map_parcels
from tasks.simulator.tile import SimulatedTile, simulate_tile
from tasks.simulator.weather import snow_depth

CONFIG = SimulatorConfig(num_tiles=4, tile_size_px=48)
NAMES = [item.name for item in classes.CLASSES]
RED, BLUE, GREEN, NIR, SWIR = 0, 1, 2, 3, 8


@pytest.fixture(scope="module")
def tiles() -> list[SimulatedTile]:
    return [simulate_tile(CONFIG, index, year) for year in CONFIG.years for index in range(4)]


@pytest.fixture(scope="module")
def views() -> list[OpticalView]:
    """All overflights of one orbit in a year, with the true sky."""
    x, y = np.arange(0, 64), np.arange(64)
    ground = survey(CONFIG, x, y, 2021)
    optics = parcel_spectra(CONFIG, ground)
    east = passes(CONFIG, (OPTICAL[0],), 2021)
    return [observe_optical(CONFIG, ground, optics, overflight) for overflight in east]


def median_ndvi(tiles: list[SimulatedTile], name: str, first: int, last: int) -> float:
    """Median NDVI of clear observations of a class between two days of year."""
    values = []
    for tile in tiles:
        days = (tile.doys >= first) & (tile.doys <= last)
        clear = (tile.masks[days] > 0) & (tile.land_cover == NAMES.index(name) + 1)
        bands = tile.bands[days][clear].astype(float)
        values.append((bands[:, NIR] - bands[:, RED]) / (bands[:, NIR] + bands[:, RED]))
    return float(np.median(np.concatenate(values)))


def test_crops_are_green_in_their_own_season(tiles: list[SimulatedTile]) -> None:
    assert median_ndvi(tiles, "winter cereal", 125, 160) > 0.65
    assert median_ndvi(tiles, "winter cereal", 215, 250) < 0.4
    assert median_ndvi(tiles, "maize", 125, 150) < 0.45
    assert median_ndvi(tiles, "maize", 205, 240) > 0.65


def test_conifers_stay_green_and_broadleaves_do_not(tiles: list[SimulatedTile]) -> None:
    winter, summer = (335, 366), (160, 240)
    swing = {
        name: median_ndvi(tiles, name, *summer) - median_ndvi(tiles, name, *winter)
        for name in ("conifer forest", "broadleaf forest")
    }
    assert abs(swing["conifer forest"]) < 0.15
    assert swing["broadleaf forest"] > 0.2


def test_water_is_negative_and_town_lies_between_bare_ground_and_grass(
    tiles: list[SimulatedTile],
) -> None:
    assert median_ndvi(tiles, "water", 150, 250) < 0.05
    bare, town, grass = (
        median_ndvi(tiles, name, 150, 250) for name in ("bare ground", "built-up", "grassland")
    )
    assert bare < town < grass


def test_radar_orders_classes_as_it_should(tiles: list[SimulatedTile]) -> None:
    level = {}
    for name in ("water", "grassland", "conifer forest", "built-up"):
        chosen = [tile.land_cover == NAMES.index(name) + 1 for tile in tiles]
        codes = [tile.sar_ascending[:, where] for tile, where in zip(tiles, chosen, strict=True)]
        level[name] = np.median(np.concatenate([c[c[..., 0] > 0] for c in codes]), axis=0)
    vv = {name: codes[0] for name, codes in level.items()}
    assert vv["water"] < vv["grassland"] < vv["conifer forest"] < vv["built-up"]
    assert level["conifer forest"][1] > level["grassland"][1] + 500  # volume scattering


def test_levels_are_those_of_the_public_statistics(tiles: list[SimulatedTile]) -> None:
    seen = np.concatenate([t.sar_ascending[t.sar_ascending[..., 0] > 0] for t in tiles])
    np.testing.assert_allclose(seen.mean(axis=0), [5909, 3405], atol=400)
    np.testing.assert_allclose(seen.std(axis=0), [1507, 1531], atol=400)
    clear = np.concatenate([tile.bands[tile.masks > 0] for tile in tiles])
    published = [1633, 1341, 1540, 3055, 3117, 2004, 2695, 2945, 2267, 1657]
    ratio = clear.mean(axis=0) / published
    assert ((ratio > 0.4) & (ratio < 1.3)).all()


def test_snow_is_bright_in_the_visible_and_dark_in_the_short_wave(views: list[OpticalView]) -> None:
    east = passes(CONFIG, (OPTICAL[0],), 2021)
    depth = np.array([snow_depth(CONFIG, overflight.day) for overflight in east])
    found = []
    for deep, view in zip(depth > 0.7, views, strict=True):
        if deep:
            found.append(view.bands[(view.sky.opacity < 0.02) & (view.bands[..., BLUE] > 5000)])
    snow = np.concatenate(found).astype(float)
    assert len(snow) > 50
    index = (snow[:, GREEN] - snow[:, SWIR]) / (snow[:, GREEN] + snow[:, SWIR])
    assert np.median(index) > 0.5
    assert snow_depth(CONFIG, date(2021, 7, 1)) == 0.0


def test_no_optical_date_bears_the_baseline_offset_after_january_2022(
    tiles: list[SimulatedTile],
) -> None:
    """Dark targets would sit near 1000 if the offset of baseline 04.00 were present."""
    for tile in tiles:
        dark = tile.bands[(tile.masks > 0)][:, RED]
        assert np.quantile(dark, 0.01) < 500


def test_parcels_keep_their_land_use_but_rotate_their_crops() -> None:
    parcels = map_parcels(CONFIG, np.arange(200), np.arange(200))
    before, after = (land_use(CONFIG, parcels, year) for year in (2021, 2022))
    crops = np.array([item.is_crop for item in classes.CLASSES])
    np.testing.assert_array_equal(crops[before], crops[after])
    np.testing.assert_array_equal(before[~crops[before]], after[~crops[before]])
    assert 0.5 < (before != after)[crops[before]].mean() < 1.0


def test_border_pixels_are_mixed_and_inner_ones_pure() -> None:
    parcels = map_parcels(CONFIG, np.arange(96), np.arange(96))
    largest = parcels.share[..., 0]
    np.testing.assert_array_equal(parcels.share.sum(axis=-1), 1.0)
    inner = np.ones((96, 96), dtype=bool)
    owner = parcels.member[..., 0]
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(owner, step, axis=axis) == owner
    border = ~inner[1:-1, 1:-1]
    assert largest[1:-1, 1:-1][~border].mean() > 0.97
    assert 0.6 < largest[1:-1, 1:-1][border].mean() < 0.9
    assert 0.03 < (largest < 0.6).mean() < 0.3


def test_a_map_of_another_window_shows_the_same_parcels() -> None:
    whole = map_parcels(CONFIG, np.arange(80), np.arange(80))
    part = map_parcels(CONFIG, np.arange(40, 80), np.arange(20, 60))
    expected = whole.group[whole.member[20:60, 40:80, 0]]
    np.testing.assert_array_equal(expected, part.group[part.member[..., 0]])
    np.testing.assert_array_equal(whole.share[20:60, 40:80], part.share)


def monthly(tile: SimulatedTile) -> npt.NDArray[Any]:
    """Medians of clear bands and means of VV, VH in six two-month windows: (H * W / 2, 72)."""
    columns = []
    for start in range(0, 366, 61):
        days = (tile.doys > start) & (tile.doys <= start + 61)
        bands, masks = tile.bands[days, ::2], tile.masks[days, ::2]
        clear = np.where(masks[..., None] > 0, bands.astype(np.float32), np.nan)
        columns.append(np.nanmedian(clear, axis=0))
        days = (tile.sar_ascending_doy > start) & (tile.sar_ascending_doy <= start + 61)
        columns.append(tile.sar_ascending[days, ::2].mean(axis=0))
    return np.concatenate(columns, axis=-1).reshape(-1, 72)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_labels_can_be_learned_but_not_perfectly(tiles: list[SimulatedTile]) -> None:
    rows = np.nan_to_num(np.concatenate([monthly(tile) for tile in tiles]), nan=-1.0)
    cover = np.concatenate([tile.land_cover[::2].ravel() for tile in tiles])
    biomass = np.concatenate([tile.biomass[::2].ravel() for tile in tiles])
    held_out = np.concatenate([tile.parcel[::2].ravel() for tile in tiles]) % 3 == 0
    train, test = (cover > 0) & ~held_out, (cover > 0) & held_out
    forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=0)
    guess = forest.fit(rows[train][::2], cover[train][::2]).predict(rows[test][::2])
    assert 0.75 < balanced_accuracy_score(cover[test][::2], guess) < 0.97
    train, test = np.isfinite(biomass) & ~held_out, np.isfinite(biomass) & held_out
    trees = RandomForestRegressor(60, min_samples_leaf=5, random_state=0)
    guess = trees.fit(rows[train][::2], biomass[train][::2]).predict(rows[test][::2])
    assert 0.3 < r2_score(biomass[test][::2], guess) < 0.95


def test_some_squares_are_blind_to_one_sensor_and_never_to_both() -> None:
    ground = survey(CONFIG, np.arange(400), np.arange(400), 2021)
    assert 0.002 < ground.optically_blind.mean() < 0.02
    assert 0.002 < ground.radar_blind.mean() < 0.02
    assert not (ground.optically_blind & ground.radar_blind).any()


def test_every_map_pixel_is_seen_by_an_optical_orbit() -> None:
    x, y = np.arange(-300, 300), np.arange(-300, 300)
    first, second = (in_swath(orbit, x, y) for orbit in OPTICAL)
    assert (first | second).all()
    assert 0.2 < (first & second).mean() < 0.6
