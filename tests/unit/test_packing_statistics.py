"""Statistics, normalisation and mixing of a corpus, against closed forms and brute force."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.architecture import StudentConfig
from models.bands import NORMALISATIONS, S1_BANDS, S2_BANDS, Normalisation
from models.dpixel import DPixels, Series
from models.initialisation import initialise
from models.student import Student
from tasks.errors import DataError, ParamsError
from tasks.packing.mixing import batch_rows, merge_mixing, pearson, spread, tally_mixing, windowed
from tasks.packing.normalisation import NORMALISATION, normalisation_facts, resolve
from tasks.packing.statistics import merge, summarise, tally
from tests.corpora import make_dpixels


def statistics_of(*parts: DPixels) -> dict[str, Any]:
    return summarise(sum(map(len, parts)), merge(tally(part) for part in parts))


def without(dpixels: DPixels, *sensors: str) -> DPixels:
    kept = {name: getattr(dpixels, name) for name in ("s2", "s1_asc", "s1_desc")}
    for name in sensors:
        width, kind = kept[name].values.shape[1], kept[name].values.dtype
        nothing = np.zeros(len(dpixels) + 1, np.int64)
        kept[name] = Series(np.zeros((0, width), kind), np.zeros(0, np.int16), nothing)
    return DPixels(dpixels.pixel_id, **kept)


@pytest.mark.parametrize("sensor", ["s2", "s1_asc", "s1_desc"])
def test_moments_and_extremes_are_those_of_all_observations(sensor: str) -> None:
    dpixels = make_dpixels(200, seed=4)
    found = statistics_of(dpixels)["sensors"][sensor]
    series = getattr(dpixels, sensor)
    assert found["observations"] == len(series.doy)
    for band, column in zip(found["bands"].values(), series.values.T.astype(float), strict=True):
        assert band["mean"] == pytest.approx(column.mean(), rel=1e-13)
        assert band["std"] == pytest.approx(column.std(), rel=1e-12)
        assert (band["min"], band["max"]) == (column.min(), column.max())


def test_bands_and_bins_are_those_of_the_contract() -> None:
    dpixels = make_dpixels(50, seed=4)
    sensors = statistics_of(dpixels)["sensors"]
    assert tuple(sensors["s2"]["bands"]) == S2_BANDS
    for name, top in (("s2", 65536), ("s1_asc", 32768), ("s1_desc", 32768)):
        values = getattr(dpixels, name).values
        for number, band in enumerate(sensors[name]["bands"].values()):
            expected, _ = np.histogram(values[:, number], bins=256, range=(0, top))
            assert band["histogram"] == expected.tolist()
    assert tuple(sensors["s1_asc"]["bands"]) == S1_BANDS


def test_days_are_counted_from_the_first_to_the_last_of_a_leap_year() -> None:
    dpixels = make_dpixels(300, seed=2)
    days = statistics_of(dpixels)["sensors"]["s2"]["days"]
    assert len(days) == 366
    assert days == [int((dpixels.s2.doy == day).sum()) for day in range(1, 367)]


def test_observations_per_dpixel_are_numbers_that_dpixels_have() -> None:
    dpixels = make_dpixels(101, seed=2)
    found = statistics_of(dpixels)["sensors"]["s1_asc"]["observations_per_dpixel"]
    counts = np.sort(dpixels.s1_asc.counts)
    assert found["mean"] == pytest.approx(counts.mean())
    assert (found["min"], found["median"], found["max"]) == (counts[0], counts[50], counts[100])
    expected = np.percentile(counts, (5, 95), method="inverted_cdf")
    assert [found["p05"], found["p95"]] == expected.tolist()


def test_sums_are_exact_where_floating_point_is_not() -> None:
    # 2**26 squares of 65,535 need 58 bits: a float64 sum would have lost the last digits.
    part = tally(without(make_dpixels(3, seed=1), "s1_asc", "s1_desc"))
    part["s2"]["bands"]["B04"] |= {"sum": 65535 * 2**26 + 1, "sum_of_squares": 65535**2 * 2**26 + 1}
    whole = merge([part] * 3)["s2"]["bands"]["B04"]
    assert whole["sum_of_squares"] == 3 * (65535**2 * 2**26 + 1)
    assert whole["sum"] == 3 * (65535 * 2**26 + 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=4))
def test_parts_add_up_to_the_whole_in_any_cut(cuts: list[int]) -> None:
    dpixels = make_dpixels(40, seed=8)
    bounds = [0, *sorted(cuts), 40]
    parts = [dpixels.slice(a, b) for a, b in itertools.pairwise(bounds) if b > a]
    assert statistics_of(*parts) == statistics_of(dpixels)


def test_what_was_never_observed_has_no_mean() -> None:
    found = statistics_of(without(make_dpixels(5, seed=1), "s1_desc"))["sensors"]["s1_desc"]
    assert found["observations"] == found["observations_per_dpixel"]["max"] == 0
    assert all(found["bands"]["VV"][key] is None for key in ("min", "max", "mean", "std"))


def test_a_negative_radar_code_is_named() -> None:
    dpixels = make_dpixels(5, seed=1, least=2)
    codes = dpixels.s1_asc.values.copy()
    codes[3, 1] = -7
    radar = Series(codes, dpixels.s1_asc.doy, dpixels.s1_asc.offsets)
    spoilt = DPixels(dpixels.pixel_id, dpixels.s2, radar, dpixels.s1_desc)
    with pytest.raises(DataError, match=r"s1_asc of the corpus: expected radar codes .* found -7"):
        tally(spoilt)


def test_the_corpus_is_normalised_by_its_own_numbers() -> None:
    dpixels = make_dpixels(60, seed=5)
    facts = normalisation_facts(statistics_of(dpixels))
    assert facts is not None
    given = Normalisation(**facts["normalisation"])
    scaled = (dpixels.s2.values - np.array(given.s2_mean)) / np.array(given.s2_std)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-12)
    assert given.name == f"corpus-{given.digest[:12]}"
    assert facts["digest"] == given.digest
    assert facts["borrowed"] == {}


def test_an_absent_orbit_takes_the_numbers_of_the_other_and_says_so() -> None:
    facts = normalisation_facts(statistics_of(without(make_dpixels(60, seed=5), "s1_desc")))
    assert facts is not None
    assert facts["borrowed"] == {"s1_desc": "s1_asc"}
    given = facts["normalisation"]
    assert given["s1_desc_mean"] == given["s1_asc_mean"]


@pytest.mark.parametrize("absent", [("s2",), ("s1_asc", "s1_desc")])
def test_no_statistics_are_made_up_for_a_sensor_that_is_not_there(absent: tuple[str, ...]) -> None:
    assert normalisation_facts(statistics_of(without(make_dpixels(9, seed=5), *absent))) is None


def test_names_resolve_to_published_sets_and_to_the_corpus(tmp_path: Path) -> None:
    facts = normalisation_facts(statistics_of(make_dpixels(60, seed=5)))
    (tmp_path / NORMALISATION).write_text(json.dumps(facts))
    assert facts is not None
    assert resolve("corpus", tmp_path) == Normalisation(**facts["normalisation"])
    assert resolve("tessera-v1.0", tmp_path) is NORMALISATIONS["tessera-v1.0"]


def test_an_unknown_name_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"expected one of corpus, tessera-v2-student.*found v9"):
        resolve("v9", tmp_path)


def test_a_corpus_without_statistics_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="Set normalisation to a published set"):
        resolve("corpus", tmp_path)


def test_a_checkpoint_carries_the_statistics_of_a_corpus(tmp_path: Path) -> None:
    from models.checkpoint import checkpoint_config, write_checkpoint
    from tasks.checkpoints import open_checkpoint

    facts = normalisation_facts(statistics_of(make_dpixels(60, seed=5)))
    assert facts is not None
    student = Student(StudentConfig(latent=2, layers=1, heads=2, feedforward=8))
    initialise(student, seed=1)
    config = checkpoint_config(
        student.config,
        Normalisation(**facts["normalisation"]),
        ladder_step=16,
        ladder_largest=32,
        provenance={},
    )
    write_checkpoint(tmp_path / "checkpoint", student.state_dict(), config)
    found = open_checkpoint(tmp_path / "checkpoint").encoder.normalisation
    assert found.digest == facts["digest"]
    assert found.name == facts["normalisation"]["name"]


def ids_of(sources: np.ndarray) -> np.ndarray:
    return (sources.astype(np.uint64) << np.uint64(32)) + np.arange(len(sources), dtype=np.uint64)


def test_the_expectation_is_that_of_all_possible_batches() -> None:
    rows, batch = np.array([0, 0, 0, 1, 1, 2]), 3
    sources = Counter(rows.tolist())
    drawn = [
        pearson(np.array(chosen), sources, 6) for chosen in itertools.combinations(rows, batch)
    ]
    assert np.mean(drawn) == pytest.approx((3 - 1) * (6 - batch) / (6 - 1))


def test_a_shuffled_corpus_has_the_ratio_one() -> None:
    random = np.random.default_rng(0)
    rows = random.permutation(np.repeat(np.arange(50), random.integers(100, 3000, 50)))
    sources = Counter(rows.tolist())
    found = merge_mixing([tally_mixing(ids_of(rows), sources, 1024)], sources, 1024)
    # Chi-squared with 49 degrees of freedom over them scatters by sqrt(2 / 49).
    assert found["noise"] == pytest.approx(math.sqrt(2 / 49 / found["batches"]), rel=0.05)
    assert found["ratio"] == pytest.approx(1, abs=4 * found["noise"])
    assert 0 < found["worst_z"] < 6


def test_the_noise_is_the_scatter_of_many_shuffles() -> None:
    random = np.random.default_rng(1)
    rows = np.repeat(np.arange(8), [50, 3000, 3000, 3000, 3000, 3000, 900, 434])
    sources, found = Counter(rows.tolist()), []
    for _ in range(300):
        tallied = tally_mixing(ids_of(random.permutation(rows)[:1024]), sources, 1024)
        found.append(tallied["ratio"])
    assert np.mean(found) == pytest.approx(1, abs=4 * spread(sources, 1024) / math.sqrt(300))
    assert np.std(found) == pytest.approx(spread(sources, 1024), rel=0.2)


def test_sources_one_after_the_other_are_found_out() -> None:
    rows = np.repeat(np.arange(20), 2048)
    sources = Counter(rows.tolist())
    found = merge_mixing([tally_mixing(ids_of(rows), sources, 1024)], sources, 1024)
    assert found["ratio"] == pytest.approx(found["unshuffled"])
    assert found["ratio"] > 1000
    assert found["worst_z"] > 1000


def test_one_bad_batch_among_many_is_the_worst() -> None:
    random = np.random.default_rng(3)
    rows = random.integers(0, 10, 64 * 1024)
    rows[1024 * 7 : 1024 * 8] = 4
    sources = Counter(rows.tolist())
    assert tally_mixing(ids_of(rows), sources, 1024)["worst_z"] > 100


def test_a_shuffle_inside_windows_is_foretold() -> None:
    random = np.random.default_rng(5)
    windows = [np.repeat(np.arange(w * 4, w * 4 + 4), 512) for w in range(16)]
    counts = [512] * 64
    found = []
    for _ in range(40):
        rows = np.concatenate([random.permutation(window) for window in windows])
        tallied = tally_mixing(ids_of(rows), Counter(rows.tolist()), 1024)
        found.append(tallied["ratio"] / tallied["batches"])
    assert np.mean(found) == pytest.approx(windowed(counts, 1024, 4), rel=0.002)


def test_parts_are_joined_batch_by_batch() -> None:
    rows = np.random.default_rng(1).integers(0, 5, 4096)
    sources, ids = Counter(rows.tolist()), ids_of(rows)
    parts = [tally_mixing(ids[at : at + 1024], sources, 512) for at in range(0, 4096, 1024)]
    joined, whole = (
        merge_mixing(given, sources, 512) for given in (parts, [tally_mixing(ids, sources, 512)])
    )
    assert joined["ratio"] == pytest.approx(whole["ratio"])
    assert joined["worst_z"] == whole["worst_z"]


@pytest.mark.parametrize(
    ("total", "block_rows", "rows_per_shard", "expected"),
    [
        (10**6, 256, 4096, 1024),
        (10**6, 384, 4096, 768),  # whole blocks
        (2048, 64, 4096, 256),  # an eighth of the corpus
        (10**6, 64, 128, 128),  # no more than a shard, or no batch would ever be whole
        (10**6, 4096, 8192, 4096),  # at least a block
    ],
)
def test_a_batch_is_of_whole_blocks_of_one_shard(
    total: int, block_rows: int, rows_per_shard: int, expected: int
) -> None:
    assert batch_rows(total, block_rows, rows_per_shard) == expected


@pytest.mark.parametrize("rows", [np.zeros(4096, int), np.arange(3)])
def test_what_cannot_be_measured_is_not_reported(rows: np.ndarray) -> None:
    sources = Counter(rows.tolist())
    found = merge_mixing([tally_mixing(ids_of(rows), sources, 4)], sources, 4)
    assert found["ratio"] is found["worst_z"] is found["unshuffled"] is None
