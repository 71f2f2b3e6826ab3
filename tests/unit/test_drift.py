"""Distances between corpora, against closed forms, another library and planted shifts."""

import copy
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from models.bands import S1_BANDS, S2_BANDS
from tasks.cli import app
from tasks.compare_corpora import compare_corpora
from tasks.errors import DataError, ParamsError
from tasks.validation.corpora import parse_statistics
from tasks.validation.distances import (
    ks_noise,
    ks_of_counts,
    ks_of_normals,
    ks_of_samples,
    ratio_noise,
    shift_noise,
    stability_index,
    stability_noise,
)
from tasks.validation.drift import compare, drift_verdict

SENSORS = {"s2": (S2_BANDS, 1 << 16), "s1_asc": (S1_BANDS, 1 << 15), "s1_desc": (S1_BANDS, 1 << 15)}
NUM = 4000


def make_statistics(seed: int, **shifts: float) -> dict[str, Any]:
    """Statistics of normal values, mean 6000 and deviation 1000 but for the named sensors' shifts."""
    rng = np.random.default_rng(seed)
    sensors = {}
    for name, (bands, levels) in SENSORS.items():
        values = {
            band: rng.normal(6000 + shifts.get(name, 0), 1000, NUM).astype(np.int64)
            for band in bands
        }
        sensors[name] = {
            "observations": NUM,
            "days": np.bincount(rng.integers(0, 366, NUM), minlength=366).tolist(),
            "observations_per_dpixel": {
                "min": 4, "p05": 6, "median": 10, "p95": 16, "max": 20, "mean": 10.3,
            },
            "bands": {
                band: {
                    "sum": int(v.sum()),
                    "sum_of_squares": int((v**2).sum()),
                    "min": int(v.min()),
                    "max": int(v.max()),
                    "mean": float(v.mean()),
                    "std": float(v.std()),
                    "histogram": np.bincount(v * 256 // levels, minlength=256).tolist(),
                }
                for band, v in values.items()
            },
        }  # fmt: skip
    return {"format": "tessera-statistics/1", "dpixels": NUM, "sensors": sensors}


def compared(corpus: dict[str, Any], reference: dict[str, Any]) -> pd.DataFrame:
    table = compare(parse_statistics(corpus, "one"), parse_statistics(reference, "other"))
    return table.set_index(["sensor", "band"])


def write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("shift", "ratio"), [(0, 1), (0.5, 1), (0, 2), (0, 0.3), (1, 0.5), (-2, 3), (0.3, 1 + 1e-10)]
)
def test_distance_of_normals_is_the_largest_gap_of_their_distributions(
    shift: float, ratio: float
) -> None:
    x = np.linspace(-20, 20, 400_001)
    gap = np.abs(stats.norm.cdf(x) - stats.norm.cdf(x, shift, ratio)).max()
    assert ks_of_normals(shift, ratio) == pytest.approx(gap, abs=1e-8)


def test_distance_of_shifted_normals_is_the_textbook_one() -> None:
    assert ks_of_normals(1.0, 1.0) == pytest.approx(2 * stats.norm.cdf(0.5) - 1)


def test_distance_of_samples_is_that_of_another_library() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=200), rng.normal(0.4, 1.3, 131)
    assert ks_of_samples(one, other) == pytest.approx(stats.ks_2samp(one, other).statistic)


def test_distance_and_index_of_histograms_by_hand() -> None:
    here, there = np.array([2, 2, 0, 4]), np.array([4, 2, 2, 0])
    assert ks_of_counts(here, there) == 0.5  # 2/8 against 4/8, 4/8 against 6/8, 4/8 against 8/8
    assert stability_index(there, there) == 0
    p, q = (np.array(c) / 10 for c in ((2.5, 2.5, 0.5, 4.5), (4.5, 2.5, 2.5, 0.5)))
    assert stability_index(here, there) == pytest.approx(((p - q) * np.log(p / q)).sum())


def test_chance_exceeds_each_noise_about_once_in_twenty_times() -> None:
    rng = np.random.default_rng(5)
    nums, rounds = (400, 700), 1500
    over = np.zeros(4)
    for _ in range(rounds):
        one, other = (rng.normal(size=n) for n in nums)
        counts = [np.histogram(np.clip(v, -1.4, 1.4), 8, (-1.5, 1.5))[0] for v in (one, other)]
        over += (
            ks_of_samples(one, other) > ks_noise(*nums),
            abs(one.mean() - other.mean()) / other.std() > shift_noise(*nums),
            abs(one.std() / other.std() - 1) > ratio_noise(*nums),
            stability_index(*counts) > stability_noise(*nums, 8),
        )
    assert (over / rounds > 0.03).all()
    assert (over / rounds < 0.075).all()


def test_a_shift_of_half_a_deviation_is_found_in_the_sensor_that_has_it() -> None:
    table = compared(make_statistics(1, s1_asc=500), make_statistics(2))
    expected = 2 * stats.norm.cdf(0.25) - 1
    for band in S1_BANDS:
        row: Any = table.loc[("s1_asc", band)]
        assert row["ks"] == pytest.approx(expected, abs=0.03)
        assert row["ks_moments"] == pytest.approx(expected, abs=0.02)
        assert row["mean_shift"] == pytest.approx(0.5, abs=0.05)
        assert row["std_ratio"] == pytest.approx(1, abs=0.04)
    assert (table.drop("s1_asc", level="sensor")["ks"].dropna() < 0.05).all()


def test_a_shift_inside_one_bin_is_found_by_the_moments(tmp_path: Path) -> None:
    # Vegetation in the red: every value in the bin 256..511, which the histogram cannot divide.
    corpus, reference = make_statistics(1), make_statistics(1)
    for content, level in ((corpus, 300), (reference, 450)):
        band = content["sensors"]["s2"]["bands"]["B04"]
        values = level + np.arange(NUM) % 40
        band |= {"sum": int(values.sum()), "sum_of_squares": int((values**2).sum())}
        band["histogram"] = [0, NUM, *[0] * 254]
    verdict = drift_verdict(corpus, write(tmp_path / "r" / "statistics.json", reference), 0.3)
    assert [(f.sensor, f.band, f.expectation) for f in verdict.failures] == [
        ("s2", "B04", "moments")
    ]


def test_equal_corpora_have_no_drift_at_all(tmp_path: Path) -> None:
    statistics = make_statistics(1)
    path = write(tmp_path / "statistics.json", statistics)
    assert drift_verdict(statistics, path, 0.0).success


def test_two_samples_of_one_world_pass_and_the_limit_bites(tmp_path: Path) -> None:
    reference = write(tmp_path / "statistics.json", make_statistics(2))
    assert drift_verdict(make_statistics(1), reference, 0.05).success
    shifted = make_statistics(1, s2=300)  # KS 0.119
    assert drift_verdict(shifted, reference, 0.2).success
    failures = drift_verdict(shifted, reference, 0.08).failures
    assert {(f.sensor, f.expectation) for f in failures} == {("s2", "levels"), ("s2", "moments")}
    assert {f.band for f in failures} == set(S2_BANDS)
    assert "in the reference" in failures[0].found


def test_other_seasons_and_thinner_dpixels_are_told_apart(tmp_path: Path) -> None:
    reference = write(tmp_path / "statistics.json", make_statistics(1))
    summer, thin = make_statistics(1), make_statistics(1)
    days = summer["sensors"]["s2"]["days"]
    days[180], days[:180] = days[180] + sum(days[:180]), [0] * 180
    thin["sensors"]["s1_desc"]["observations_per_dpixel"] = {
        "min": 1, "p05": 2, "median": 5, "p95": 8, "max": 10, "mean": 5.1,
    }  # fmt: skip
    for corpus, found in ((summer, ("s2", "season")), (thin, ("s1_desc", "thickness"))):
        (failure,) = drift_verdict(corpus, reference, 0.1).failures
        assert (failure.sensor, failure.expectation) == found


def test_one_observation_more_in_sixty_is_no_other_thickness(tmp_path: Path) -> None:
    corpus, reference = make_statistics(1), make_statistics(1)
    for content, count in ((corpus, 60), (reference, 61)):
        quantiles = dict.fromkeys(("min", "p05", "median", "p95", "max", "mean"), count)
        content["sensors"]["s1_asc"]["observations_per_dpixel"] = quantiles
    assert drift_verdict(corpus, write(tmp_path / "statistics.json", reference), 0.1).success


def test_a_sensor_that_only_one_of_them_has_is_a_failure(tmp_path: Path) -> None:
    corpus = make_statistics(1)
    reference = write(tmp_path / "statistics.json", make_statistics(1))
    del corpus["sensors"]["s1_desc"]
    (failure,) = drift_verdict(corpus, reference, 0.1).failures
    assert (failure.sensor, failure.expectation) == ("s1_desc", "present")
    assert "only in the reference" in failure.found


def test_the_verdict_knows_the_bytes_of_the_reference(tmp_path: Path) -> None:
    reference = write(tmp_path / "pack" / "statistics.json", make_statistics(2))
    digest = sha256(reference.read_bytes()).hexdigest()
    for given in (reference, reference.parent):
        verdict = drift_verdict(make_statistics(1), given, 0.1)
        assert verdict.as_dict()["reference"] == digest


def test_distances_within_chance_are_not_judged(tmp_path: Path) -> None:
    corpus, reference = make_statistics(1, s2=300), make_statistics(2)
    corpus["dpixels"] = reference["dpixels"] = 30  # noise of KS 0.35
    assert drift_verdict(corpus, write(tmp_path / "statistics.json", reference), 0.01).success


def spoil(path: str, value: Any) -> dict[str, Any]:
    content: Any = make_statistics(1)
    *names, last = path.split("/")
    part = content
    for name in names:
        part = part[name]
    part[last] = value
    return copy.deepcopy(dict(content))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("format", "tessera-statistics/9", "format"),
        ("dpixels", 0, "dpixels"),
        ("sensors/s2/observations", NUM + 1, "by day"),
        ("sensors/s2/days", [0] * 365, "sensors.s2.days"),
        ("sensors/s1_asc/bands/VV/histogram", [NUM] + [1] * 255, "of VV"),
        ("sensors/s2/bands/B04/sum", "many", "B04.sum"),
        ("sensors/s2/bands", {}, "B04"),
        ("sensors/thermal", {}, "thermal"),
        ("sensors", {}, "no observation"),
        ("sensors/s2/observations_per_dpixel/p05", float("nan"), "finite"),
        ("sensors/s2/observations_per_dpixel/p05", 17, "do not rise"),
        ("sensors/s2/bands/B04/sum", 10**400, "sums of B04"),
        ("sensors/s2/bands/B04/sum_of_squares", 10**20, "sums of B04"),
    ],
)
def test_damaged_statistics_are_refused_with_the_place(path: str, value: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        parse_statistics(spoil(path, value), "here")


def tile_tables(folder: Path, means: np.ndarray) -> Path:
    """Write the tables of an archive with one radar band."""
    folder.mkdir()
    address = {"tile": [f"t{i}" for i in range(len(means))], "sensor": "sar_ascending"}
    bands = pd.DataFrame({**address, "band": "VV", "mean": means})
    series = pd.DataFrame({**address, "band": "", "valid_share": np.linspace(0.9, 1, len(means))})
    bands.to_csv(folder / "bands.csv", index=False)
    series.to_csv(folder / "series.csv", index=False)
    return folder


def test_archives_are_compared_by_their_tiles(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    one, other = rng.normal(5000, 300, 90), rng.normal(5400, 300, 60)
    a, b = tile_tables(tmp_path / "a", one), tile_tables(tmp_path / "b", other)
    report = compare_corpora(a, b, max_drift=0.1)
    (row,) = report.table[report.table["band"] == "VV"].to_dict(orient="records")
    assert row["ks"] == pytest.approx(stats.ks_2samp(one, other).statistic)
    assert row["mean_shift"] == pytest.approx((one.mean() - other.mean()) / other.std())
    found = {(f.band, f.expectation) for f in report.verdict.failures}
    assert found == {("VV", "levels"), ("VV", "moments")}
    assert compare_corpora(a, a, max_drift=0.0).verdict.success


def test_a_pack_is_not_compared_with_an_archive(tmp_path: Path) -> None:
    archive = tile_tables(tmp_path / "a", np.arange(9.0))
    pack = write(tmp_path / "pack" / "statistics.json", make_statistics(1))
    with pytest.raises(ParamsError, match="one of each"):
        compare_corpora(archive, pack, max_drift=0.1)
    with pytest.raises(ParamsError, match="no such path"):
        compare_corpora(tmp_path / "absent", pack, max_drift=0.1)


def test_the_command_says_which_band_and_exits_with_one(tmp_path: Path) -> None:
    a = write(tmp_path / "a" / "statistics.json", make_statistics(1, s2=800)).parent
    b = write(tmp_path / "b" / "statistics.json", make_statistics(2))
    done = CliRunner().invoke(app, ["drift", str(a), str(b), "--json"])
    content = json.loads(done.stdout)
    assert (done.exit_code, content["success"]) == (1, False)
    assert len(content["rows"]) == 17
    same = CliRunner().invoke(app, ["drift", str(b), str(b)])
    assert same.exit_code == 0
    assert "no distance above 0.1" in same.stdout


def test_an_archive_of_no_tile_and_a_table_of_words_are_refused(tmp_path: Path) -> None:
    right = tile_tables(tmp_path / "right", np.arange(9.0))
    none = tile_tables(tmp_path / "none", np.zeros(0))
    words = tile_tables(tmp_path / "words", np.array(["5000", "five"]))
    for wrong, found in ((none, "no row"), (words, "other things than numbers in mean")):
        with pytest.raises(DataError, match=found):
            compare_corpora(right, wrong, max_drift=0.1)
