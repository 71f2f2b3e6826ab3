"""Clouds, shadows and the mask, over many simulated days."""

from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tasks.simulator.clouds import clear_mask, sky_over
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.orbits import OPTICAL, Pass, passes

X, Y = np.arange(0, 96, dtype=np.int64), np.arange(0, 64, dtype=np.int64)


def overflights(config: SimulatorConfig, years: range) -> list[Pass]:
    return [overflight for year in years for overflight in passes(config, (OPTICAL[0],), year)]


def morans_i(field: npt.NDArray[Any]) -> float:
    """Moran's I with the four nearest neighbours: 1 smooth, 0 random."""
    deviation = field - field.mean()
    pairs = (deviation[1:] * deviation[:-1]).sum() + (deviation[:, 1:] * deviation[:, :-1]).sum()
    num_pairs = deviation[1:].size + deviation[:, 1:].size
    return float(pairs / num_pairs / deviation.var())


@pytest.mark.parametrize("cover", [0.25, 0.4, 0.6])
def test_cloud_share_is_near_the_configured_one(cover: float) -> None:
    config = SimulatorConfig(cloud_cover=cover)
    days = overflights(config, range(2018, 2025))[::2]
    shares = [(sky_over(config, day, X[::8], Y[::8]).opacity > 0.1).mean() for day in days]
    assert np.mean(shares) == pytest.approx(cover, abs=0.08)


def test_scenes_are_mostly_clear_or_mostly_covered() -> None:
    config = SimulatorConfig()
    days = overflights(config, range(2020, 2022))
    shares = np.array([(sky_over(config, day, X, Y).opacity > 0.1).mean() for day in days])
    assert ((shares < 0.1) | (shares > 0.9)).mean() > 0.5
    assert ((shares > 0.2) & (shares < 0.8)).sum() > 10


def test_broken_clouds_are_smooth_in_space() -> None:
    config = SimulatorConfig()
    skies = [sky_over(config, day, X, Y).opacity for day in overflights(config, range(2021, 2022))]
    broken = [sky for sky in skies if 0.2 < (sky > 0.3).mean() < 0.8]
    assert len(broken) >= 3
    shuffled = np.random.default_rng(0).permutation(broken[0].ravel()).reshape(broken[0].shape)
    assert min(morans_i(sky) for sky in broken) > 0.8
    assert abs(morans_i(shuffled)) < 0.1


def test_cloudy_weather_lasts_for_days() -> None:
    config = SimulatorConfig()
    orbit = OPTICAL[0]
    days = overflights(config, range(2018, 2025))
    today = [sky_over(config, day, X[::16], Y[::16]).opacity.mean() for day in days]
    next_days = [Pass(orbit, overflight.day + timedelta(days=1)) for overflight in days]
    tomorrow = [sky_over(config, day, X[::16], Y[::16]).opacity.mean() for day in next_days]
    assert np.corrcoef(today, tomorrow)[0, 1] > 0.2


def test_shadow_is_the_cloud_moved_away_from_the_sun() -> None:
    config = SimulatorConfig()
    wide = np.arange(0, 400, dtype=np.int64)
    best = []
    for day in overflights(config, range(2021, 2022)):
        if not 140 < day.doy < 220:
            continue
        sky = sky_over(config, day, wide, wide)
        thick = (sky.opacity - sky.cirrus) / (1.0 - sky.cirrus)
        if not 0.2 < (thick > 0.3).mean() < 0.8:
            continue
        scores = {
            reach: np.corrcoef(
                thick[int(0.94 * reach) :, int(0.35 * reach) :][:200, :300].ravel(),
                sky.shadow[:200, :300].ravel(),
            )[0, 1]
            for reach in range(0, 200, 4)
        }
        best.append(max(scores.values()))
        assert scores[0] < max(scores.values())
    assert best
    assert min(best) > 0.9


def test_mask_is_mostly_right_and_sometimes_wrong_and_made_of_20_m_squares() -> None:
    config = SimulatorConfig()
    blue = np.full((Y.size, X.size), 500.0)
    called, cloudy, free = [], [], []
    for day in overflights(config, range(2021, 2023)):
        sky = sky_over(config, day, X, Y)
        clear = clear_mask(config, day, sky, blue, x=X, y=Y)
        np.testing.assert_array_equal(clear[::2, ::2], clear[1::2, 1::2])
        called.append(clear)
        cloudy.append(sky.opacity > 0.3)
        free.append((sky.opacity < 0.02) & (sky.shadow < 0.02))
    clear, thick, open_sky = (np.array(each) for each in (called, cloudy, free))
    assert 0.001 < thick[clear].mean() < 0.05
    assert 0.0005 < 1.0 - clear[open_sky].mean() < 0.02


def test_bright_ground_is_taken_for_cloud_more_often() -> None:
    config = SimulatorConfig()
    alarms = []
    for level in (400.0, 3000.0):
        blue = np.full((Y.size, X.size), level)
        wrong = []
        for day in overflights(config, range(2021, 2022)):
            sky = sky_over(config, day, X, Y)
            free = (sky.opacity < 0.02) & (sky.shadow < 0.02)
            wrong.append(~clear_mask(config, day, sky, blue, x=X, y=Y)[free])
        alarms.append(np.concatenate(wrong).mean())
    assert alarms[1] > 4 * alarms[0]
