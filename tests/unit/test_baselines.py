"""Baselines of the raw series, held against closed forms, numpy and scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from models.dpixel import DPixels, Series, offsets_of
from tasks.evaluation.baselines import QUANTILES, harmonic_features, statistics_features
from tasks.evaluation.interpolation import (
    GRID_DOY,
    Components,
    fit_components,
    interpolated_series,
)
from tests.corpora import make_dpixels

S2_COLUMNS, S1_COLUMNS = 10, 2
TERMS = 8  # of a band: level, three cosines and sines, residual


def series(rows: list[dict[int, float]], bands: int, kind: type[np.generic]) -> Series:
    """Make a series of which every band is the same function of the day."""
    values = np.array([v for row in rows for v in row.values()], dtype=np.float64)
    days = np.array([day for row in rows for day in row], dtype=np.int16)
    wide = np.repeat(np.rint(values)[:, None], bands, axis=1).astype(kind).reshape(-1, bands)
    return Series(wide, days, offsets_of(np.array([len(row) for row in rows])))


def optical(rows: list[dict[int, float]]) -> DPixels:
    """Make d-pixels that only Sentinel-2 has seen."""
    nothing = series([{} for _ in rows], S1_COLUMNS, np.int16)
    ids = np.arange(len(rows), dtype=np.uint64)
    return DPixels(ids, series(rows, S2_COLUMNS, np.uint16), nothing, nothing)


def test_statistics_are_those_of_numpy_row_by_row() -> None:
    dpixels = make_dpixels(30, seed=3)
    found = statistics_features(dpixels).reshape(30, -1, 2 + len(QUANTILES))
    for row in range(30):
        for number, one in enumerate((dpixels.s2, dpixels.s1_asc, dpixels.s1_desc)):
            first = (0, S2_COLUMNS, S2_COLUMNS + S1_COLUMNS)[number]
            values = one.values[one.offsets[row] : one.offsets[row + 1]].astype(np.float64)
            here = found[row, first : first + values.shape[1]]
            if not len(values):
                assert np.isnan(here).all()
                continue
            expected = [values.mean(0), values.std(0), *np.quantile(values, QUANTILES, axis=0)]
            np.testing.assert_allclose(here, np.stack(expected, axis=1), rtol=1e-6, atol=1e-3)


def test_harmonics_find_amplitude_and_phase_of_a_sinusoid() -> None:
    days = np.arange(3, 366, 4)
    for cycle, phase in ((1, 0.6), (2, -1.1), (3, 2.5)):
        turn = 2 * np.pi / 365.25 * days * cycle
        wave = 5000 + 2000 * np.cos(turn - phase)
        found = harmonic_features(optical([dict(zip(days.tolist(), wave, strict=True))]))
        level, *waves, left = found[0, :TERMS]
        cosine, sine = waves[2 * cycle - 2 : 2 * cycle]
        # The penalty of 1 against half of the number of dates shrinks by about 2 %.
        shrunk = 2000 * (len(days) / 2) / (len(days) / 2 + 1)
        assert level == pytest.approx(5000, abs=3)
        assert np.hypot(cosine, sine) == pytest.approx(shrunk, rel=2e-3)
        assert np.arctan2(sine, cosine) == pytest.approx(phase, abs=2e-3)
        assert left == pytest.approx((2000 - shrunk) / np.sqrt(2), rel=0.05)
        others = np.delete(waves, [2 * cycle - 2, 2 * cycle - 1])
        np.testing.assert_allclose(others, 0, atol=8)


def test_harmonics_are_the_penalised_least_squares_of_each_row() -> None:
    dpixels = make_dpixels(12, seed=4)
    found = harmonic_features(dpixels).reshape(12, -1, TERMS)
    for row in range(12):
        inside = slice(*dpixels.s2.offsets[row : row + 2].tolist())
        days, values = dpixels.s2.doy[inside], dpixels.s2.values[inside].astype(np.float64)
        if not len(days):
            assert np.isnan(found[row, :S2_COLUMNS]).all()
            continue
        turn = 2 * np.pi / 365.25 * days.astype(np.float64)
        waves = [f(k * turn) for k in (1, 2, 3) for f in (np.cos, np.sin)]
        design = np.stack([np.ones(len(days)), *waves], axis=1)
        # A penalty is as good as rows that ask each coefficient to be nought.
        asked = np.vstack([design, np.eye(7)[1:]])
        expected = np.linalg.lstsq(asked, np.vstack([values, np.zeros((6, 10))]), rcond=None)[0]
        left = np.sqrt(np.mean((values - design @ expected) ** 2, axis=0))
        np.testing.assert_allclose(found[row, :10, :7], expected.T, rtol=1e-4, atol=0.05)
        np.testing.assert_allclose(found[row, :10, 7], left, rtol=1e-4, atol=0.05)


def test_a_single_date_gives_its_value_as_the_level_and_no_wave() -> None:
    level, *rest = harmonic_features(optical([{200: 1234}]))[0, :TERMS]
    assert level == pytest.approx(1234)
    np.testing.assert_allclose(rest, 0, atol=1e-6)


def test_series_are_linear_between_dates_and_constant_outside() -> None:
    found = interpolated_series(optical([{100: 1000, 200: 3000}, {5: 7, 365: 7}, {50: 42}]))
    first, level, alone = found[:, : len(GRID_DOY)]
    np.testing.assert_allclose(first, np.clip(1000 + 20.0 * (GRID_DOY - 100), 1000, 3000))
    np.testing.assert_allclose(level, 7)
    np.testing.assert_allclose(alone, 42)


def test_a_sensor_never_seen_has_no_features_and_the_others_have() -> None:
    dpixels = optical([{10: 5, 90: 6}, {}, {200: 9}])
    for features in (statistics_features, harmonic_features, interpolated_series):
        found = features(dpixels)
        seen = found.shape[1] * S2_COLUMNS // (S2_COLUMNS + 2 * S1_COLUMNS)
        assert np.isfinite(found[[0, 2], :seen]).all()
        assert np.isnan(found[1]).all()
        assert np.isnan(found[:, seen:]).all()


def test_components_are_those_of_scikit_learn_whatever_the_blocks() -> None:
    random = np.random.default_rng(0)
    mixed = random.normal(size=(400, 6)) @ random.normal(size=(6, 12)) + 5
    columns = mixed.astype(np.float32)
    found = fit_components([columns[:150], columns[150:]])
    wide = columns.astype(np.float64)
    scaled = (wide - wide.mean(0)) / wide.std(0)
    expected = PCA(4).fit(scaled)
    np.testing.assert_allclose(found.variance[:4], expected.explained_variance_ * 399 / 400, 1e-9)
    aligned = np.abs(np.sum(found.basis[:, :4] * expected.components_.T, axis=0))
    np.testing.assert_allclose(aligned, 1, atol=1e-9)
    projected = found.project(columns, 4)
    np.testing.assert_allclose(np.abs(projected), np.abs(expected.transform(scaled)), atol=1e-4)


def test_missing_columns_are_filled_with_the_mean_of_those_that_have_them() -> None:
    random = np.random.default_rng(1)
    columns = random.normal(3, 2, (200, 5)).astype(np.float32)
    columns[:60, 3:] = np.nan
    columns[:, 4] = np.nan
    found = fit_components([columns])
    assert found.mean[3] == pytest.approx(columns[60:, 3].mean())
    filled = np.where(np.isnan(columns), found.mean, columns).astype(np.float32)
    expected, projected = found.project(filled, 5), found.project(columns, 5)
    np.testing.assert_allclose(projected, expected, atol=1e-6)
    assert found.variance[-1] == pytest.approx(0, abs=1e-12)  # the column that nobody has


def test_components_refuse_lengths_that_do_not_exist_and_no_blocks() -> None:
    one = np.ones(3)
    components = Components(one, one, np.eye(3), one)
    with pytest.raises(ValueError, match="1 to 3 components, got 4"):
        components.project(np.ones((2, 3), np.float32), 4)
    with pytest.raises(ValueError, match="at least one block"):
        fit_components([])
