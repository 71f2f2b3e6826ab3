"""Plant every fault that an archive may have, and see it named; clean archives must pass."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bands import S2_BANDS
from tasks.errors import ValidationFailed
from tasks.files import files_below
from tasks.ingest import Catalogue, ingest, make_catalogue
from tasks.params import read_params
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.validate import judge_archive, validate
from tasks.validation.band_order import NEIGHBOURS
from tasks.validation.verdict import Verdict
from tasks.workspace import Workspace

REPOSITORY = Path(__file__).parents[2]
LIMITS = read_params(REPOSITORY / "params.yaml").validate_
WAVELENGTH = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

Array = np.ndarray[Any, Any]
Fault = tuple[Callable[[Path], None], set[tuple[str, str, str]]]
ASC, DESC = "sar_ascending", "sar_descending"


def edit(name: str, change: Callable[[Array], Array]) -> Callable[[Path], None]:
    def apply(tile: Path) -> None:
        path = tile / f"{name}.npy"
        np.save(path, change(np.load(path)))

    return apply


def order(*bands: str) -> Callable[[Path], None]:
    """Store other bands in the places of the ten."""
    return edit("bands", lambda dn: dn[..., [S2_BANDS.index(band) for band in bands]])


def exchange(one: str, other: str) -> Callable[[Path], None]:
    swap = {one: other, other: one}
    return order(*(swap.get(band, band) for band in S2_BANDS))


def offset(dates: Callable[[int], Array]) -> Callable[[Path], None]:
    """Leave the offset of 1000 in on some dates, chosen by their number; 0 stays no data."""

    def lift(dn: Array) -> Array:
        chosen = dates(len(dn))[:, None, None, None]
        lifted: Array = (dn + 1000 * (chosen & (dn > 0))).astype(np.uint16)
        return lifted

    return edit("bands", lift)


def put(name: str, index: Any, value: float, dtype: str | None = None) -> Callable[[Path], None]:
    def change(array: Array) -> Array:
        array = array.astype(dtype) if dtype else array
        array[index] = value
        return array

    return edit(name, change)


def remove(*names: str) -> Callable[[Path], None]:
    def apply(tile: Path) -> None:
        for name in names:
            (tile / name).unlink()

    return apply


def cut(tile: Path) -> None:
    path = tile / "bands.npy"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def decibels(code: Array) -> Array:
    """Undo the code: conventional decibels times 10, as another archive may store them."""
    tenths: Array = ((code / 200 - 50) / 2 * 10).astype(np.int16)
    return tenths


def once_scaled(code: Array) -> Array:
    """Code 10 log10 of power instead of 20 log10."""
    again: Array = np.where(code != 0, ((code / 200 - 50) / 2 + 50) * 200, 0).astype(np.int16)
    return again


def lose_a_band(dn: Array) -> Array:
    """Lose one band on the clearest date of the year; the brightest dates are clouded."""
    day = int(np.argsort(np.median(dn[..., 0], axis=(1, 2)))[len(dn) // 4])
    dn[day, ..., 8] = 0
    return dn


def break_region(tile: Path) -> None:
    (tile / "roi.tiff").write_bytes(b"II*")


def s2(expectation: str, *bands: str) -> set[tuple[str, str, str]]:
    return {("s2", band, expectation) for band in bands or ("",)}


FAULTS: dict[str, Fault] = {
    "rotated": (
        edit("bands", lambda dn: np.roll(dn, 1, axis=-1)),
        s2("band_order", *S2_BANDS),
    ),
    "by_wavelength": (order(*WAVELENGTH), s2("band_order", *S2_BANDS[:8])),
    "red_blue": (exchange("B04", "B02"), s2("band_order", "B04", "B02")),
    "swir": (exchange("B11", "B12"), s2("band_order", "B11", "B12")),
    "red_edge": (exchange("B06", "B07"), s2("band_order", "B06", "B07")),
    "nir_twins": (exchange("B08", "B8A"), s2("detail_10m", "B08")),
    "edge_twins": (exchange("B8A", "B07"), s2("level_B8A_to_B07", "B8A")),
    "offset": (offset(lambda n: np.ones(n, bool)), s2("dark_targets") | s2("dark_dates")),
    "offset_half": (offset(lambda n: np.arange(n) % 2 == 0), s2("dark_dates")),
    "offset_late": (offset(lambda n: np.arange(n) >= n // 2), s2("dark_dates")),
    "offset_one_band": (
        edit("bands", lambda dn: dn + np.array([0, 1000] + [0] * 8, np.uint16)),
        s2("level_B02_to_B03", "B02"),
    ),
    "offset_twice": (
        edit("bands", lambda dn: np.maximum(dn, 1001) - np.uint16(1000)),
        s2("not_floored", "B02", "B04"),
    ),
    "overflow": (edit("bands", lambda dn: dn - np.uint16(1000)), s2("no_overflow", "B02", "B04")),
    "zero_band": (
        put("bands", np.s_[..., 6], 0),
        s2("no_data_masked", "B06") | s2("varies", "B06"),
    ),
    "zero_band_one_date": (edit("bands", lose_a_band), s2("no_data_masked", "B11")),
    "reflectance": (edit("bands", lambda dn: (dn // 100).astype(np.uint16)), s2("scale")),
    "nan": (
        put("bands", np.s_[3, 5, 5, 2], np.nan, "f4"),
        s2("layout") | s2("no_nan", "B03"),
    ),
    "float": (edit("bands", lambda dn: dn.astype("f8")), s2("layout")),
    "truncated": (cut, s2("layout")),
    "nine_bands": (edit("bands", lambda dn: dn[..., :9]), s2("layout")),
    "all_clear": (edit("masks", np.ones_like), s2("clouds_masked") | s2("some_masked")),
    "inverted": (edit("masks", lambda flag: 1 - flag), s2("mask_polarity") | s2("clouds_masked")),
    "empty": (edit("masks", np.zeros_like), s2("clear_share")),
    "flags_255": (edit("masks", lambda flag: flag * np.uint8(255)), s2("flags_0_or_1")),
    "masks_mirrored": (edit("masks", lambda flag: flag[:, ::-1]), s2("masks_fit_images")),
    "masks_short": (edit("masks", lambda flag: flag[:-1]), s2("layout")),
    "no_masks": (remove("masks.npy"), s2("layout")),
    "no_days": (remove("doys.npy"), s2("layout")),
    "no_bands": (remove("bands.npy"), s2("layout")),
    "day_twice": (
        edit("doys", lambda days: np.concatenate([days[:1], days[:-1]])),
        s2("no_duplicate_dates"),
    ),
    "image_twice": (
        edit("bands", lambda dn: np.concatenate([dn[:1], dn[:-1]])),
        s2("no_repeated_images"),
    ),
    "day_0": (put("doys", 0, 0), s2("doy_first")),
    "day_400": (put("doys", -1, 400), s2("doy_last") | s2("doy_in_year")),
    "unsorted": (edit("doys", lambda days: days[::-1]), s2("dates_rise")),
    "fractional_days": (edit("doys", lambda days: days / 365), s2("layout")),
    "vh_first": (
        edit(ASC, lambda code: code[..., ::-1]),
        {(ASC, "", "polarisation_order")},
    ),
    "radar_constant": (
        edit(ASC, lambda code: np.full_like(code, 5000)),
        {(ASC, "VV", "radar_varies"), (ASC, "VH", "radar_varies")},
    ),
    "radar_empty": (edit(ASC, np.zeros_like), {(ASC, "", "radar_valid")}),
    "radar_decibels": (edit(ASC, decibels), {(ASC, "VV", "code_range"), (ASC, "VV", "scale_VV")}),
    "radar_once_scaled": (edit(ASC, once_scaled), {(ASC, "VH", "level_VH")}),
    "radar_short": (edit(ASC, lambda code: code[1:]), {(ASC, "", "layout")}),
    "radar_other_grid": (edit(ASC, lambda code: code[:, 1:]), {(ASC, "", "layout")}),
    "radar_float": (
        put(ASC, np.s_[0, 0, 0, 1], np.nan, "f4"),
        {(ASC, "", "layout"), (ASC, "VH", "no_nan")},
    ),
    "radar_mirrored": (edit(ASC, lambda code: code[:, :, ::-1]), {(ASC, "", "radar_fits_images")}),
    "radar_day_0": (put(f"{ASC}_doy", 0, 0), {(ASC, "", "doy_first")}),
    "radar_unsorted": (
        edit(f"{ASC}_doy", lambda days: days[::-1]),
        {(ASC, "", "dates_rise")},
    ),
    "radar_no_days": (remove(f"{ASC}_doy.npy"), {(ASC, "", "layout")}),
    "bad_region": (break_region, {("", "", "layout")}),
}

# Expectations that a fault may break besides those it must: it is then seen from two sides, and
# how far that goes depends on the landscape. Every other fault breaks what is listed, no more.
LEVELS = {f"level_{band}_to_{spec[0]}" for band, spec in NEIGHBOURS.items()}
CLOUDS = {"clouds_masked", "clouded_dates_masked"}
ALSO: dict[str, set[str]] = {
    **dict.fromkeys(("rotated", "by_wavelength"), LEVELS | {"detail_10m"}),
    **dict.fromkeys(("swir", "red_edge", "zero_band"), LEVELS),
    **dict.fromkeys(("offset", "offset_half", "offset_late", "all_clear"), CLOUDS),
    "offset_one_band": {"band_order"},
    "offset_twice": LEVELS | {"not_floored"},
    "overflow": CLOUDS | {"no_overflow", "masks_fit_images"},
    "inverted": CLOUDS | {"dark_dates"},
    "image_twice": CLOUDS | {"masks_fit_images"},  # every image but the first is a date late
    "fractional_days": {"doy_first"},
    "vh_first": {"level_VH"},
    "radar_constant": {"no_repeated_images", "polarisation_order"},
    "radar_empty": {"radar_share"},
    "radar_decibels": {"radar_varies", "scale_VH", "code_range"},
    "radar_no_days": {"radar_dates"},
}


def catalogue_of(archive: Path) -> Catalogue:
    return Catalogue(archive, tuple(make_catalogue(archive)))


def judge(archive: Path, **limits: Any) -> Verdict:
    verdict, _ = judge_archive(catalogue_of(archive), LIMITS.model_copy(update=limits))
    return verdict


def addresses(verdict: Verdict, tile: str) -> set[tuple[str, str, str]]:
    return {(f.sensor, f.band, f.expectation) for f in verdict.failures if f.tile == tile}


def crop(shared_data: Path, tile: Path, row: int, column: int, side: int) -> None:
    """Write a square part of the real tile, without its region file."""
    tile.mkdir()
    part = np.s_[:, row : row + side, column : column + side]
    for path in (shared_data / "data" / "be2018" / "tiles" / "0_0_64_64").glob("*.npy"):
        array = np.load(path)
        np.save(tile / path.name, array[part] if array.ndim > 1 else array)


def faulty_archive(clean: Path, root: Path) -> Path:
    """Copy one clean tile many times, each copy with one fault, and once without."""
    for name, (spoil, _) in FAULTS.items():
        shutil.copytree(clean, root / name)
        for file in (root / name).iterdir():
            file.chmod(0o644)
        spoil(root / name)
    shutil.copytree(clean, root / "untouched")
    return root


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simulated") / "archive"
    config = SimulatorConfig(seed=5, num_tiles=4, tile_size_px=40, years=(2022,))
    write_archive(config, root)
    return root


@pytest.fixture(scope="module")
def verdict_on_faults(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    clean = simulated / "tiles" / "2022" / "40_40_80_80"
    return judge(faulty_archive(clean, tmp_path_factory.mktemp("faults")))


@pytest.fixture(scope="module")
def verdict_on_real_faults(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    part = tmp_path_factory.mktemp("real") / "part"
    crop(shared_data, part, 0, 24, 40)
    return judge(faulty_archive(part, tmp_path_factory.mktemp("real_faults")))


def assert_named(fault: str, found: set[tuple[str, str, str]]) -> None:
    """All of what the fault must break is there, and nothing that it cannot break."""
    must = FAULTS[fault][1]
    assert must <= found
    more = {expectation for _, _, expectation in found - must}
    assert more <= ALSO.get(fault, set()) | {"no_copies"}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_simulated_tile_is_named(fault: str, verdict_on_faults: Verdict) -> None:
    assert_named(fault, addresses(verdict_on_faults, fault))


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_real_tile_is_named(fault: str, verdict_on_real_faults: Verdict) -> None:
    assert_named(fault, addresses(verdict_on_real_faults, fault))


def test_untouched_copy_among_faulty_tiles_is_blamed_for_nothing_but_being_a_copy(
    verdict_on_faults: Verdict,
) -> None:
    assert addresses(verdict_on_faults, "untouched") == {("", "", "no_copies")}


def test_simulated_archive_passes_and_every_expectation_judges_something(simulated: Path) -> None:
    verdict = judge(simulated)
    assert verdict.failures == ()
    assert [check.expectation for check in verdict.checks if not check.judged] == []


@pytest.mark.parametrize(("seed", "size"), [(1, 16), (2, 20), (3, 24), (20260101, 40)])
def test_other_worlds_and_sizes_pass(seed: int, size: int, tmp_path: Path) -> None:
    config = SimulatorConfig(seed=seed, num_tiles=2, tile_size_px=size, years=(2021, 2022))
    write_archive(config, tmp_path / "archive")
    assert judge(tmp_path / "archive").failures == ()


def test_real_tile_passes(shared_data: Path) -> None:
    assert judge(shared_data / "data" / "be2018").failures == ()


def test_parts_of_the_real_tile_pass(shared_data: Path, tmp_path: Path) -> None:
    for row in (0, 32):
        for column in (0, 32):
            crop(shared_data, tmp_path / f"{row}_{column}", row, column, 32)
    assert judge(tmp_path).failures == ()


def test_bands_exchanged_between_two_tiles_do_not_fit_their_radar(
    simulated: Path, tmp_path: Path
) -> None:
    tiles = shutil.copytree(simulated, tmp_path / "archive") / "tiles" / "2022"
    one, other = tiles / "0_0_40_40" / "bands.npy", tiles / "0_40_40_80" / "bands.npy"
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    found = {(f.tile, f.expectation) for f in judge(tmp_path / "archive").failures}
    assert {("2022/0_0_40_40", "radar_fits_images")} <= found


@pytest.mark.slow
def test_either_orbit_may_be_absent_but_not_both(simulated: Path, tmp_path: Path) -> None:
    tiles = shutil.copytree(simulated, tmp_path / "archive") / "tiles" / "2022"
    remove(f"{ASC}.npy", f"{ASC}_doy.npy")(tiles / "0_0_40_40")
    for name in (DESC, f"{DESC}_doy"):
        edit(name, lambda array: array[:0])(tiles / "0_40_40_80")
    assert judge(tmp_path / "archive").failures == ()
    remove(f"{DESC}.npy", f"{DESC}_doy.npy")(tiles / "0_0_40_40")
    found = judge(tmp_path / "archive").failures
    assert [(f.tile, f.expectation) for f in found] == [("2022/0_0_40_40", "radar_dates")]
    assert judge(tmp_path / "archive", min_radar_dates=0).failures == ()


def test_day_366_is_legal_in_leap_years_only(simulated: Path, tmp_path: Path) -> None:
    for year in ("2020", "2021"):
        shutil.copytree(simulated / "tiles" / "2022" / "0_0_40_40", tmp_path / year / "tile")
        put("doys", -1, 366)(tmp_path / year / "tile")
    found = {(f.tile, f.expectation) for f in judge(tmp_path).failures}
    assert ("2021/tile", "doy_in_year") in found
    assert ("2020/tile", "doy_in_year") not in found


def prepare(workspace: Workspace, archive: Path) -> Any:
    """Ingest an archive into a project; returns its settings."""
    text = workspace.params.read_text()
    workspace.params.write_text(text.replace("archive: data ", f"archive: {archive} "))
    params = read_params(workspace.params)
    ingest(workspace, params)
    return params


def test_stage_writes_the_same_bytes_twice_and_a_page_that_needs_no_network(
    simulated: Path, workspace: Workspace
) -> None:
    params = prepare(workspace, simulated)
    written = []
    for _ in range(2):
        validate(workspace, params)
        output = workspace.output("validate")
        written.append(
            {p.relative_to(output).as_posix(): p.read_bytes() for p in files_below(output)}
        )
    assert written[0] == written[1]
    assert {"verdict.json", "index.html", "series.csv", "bands.csv"} <= set(written[0])
    maps = [name for name in written[0] if name.startswith("observations/")]
    assert maps == [f"observations/{entry.key}.npy" for entry in make_catalogue(simulated)]
    assert json.loads(written[0]["verdict.json"])["success"] is True
    assert b"http" not in written[0]["index.html"]
    assert (workspace.state / "validation" / "archive" / "data_docs" / "index.html").is_file()


def test_failed_stage_names_the_fault_keeps_the_verdict_and_makes_no_output(
    simulated: Path, workspace: Workspace, tmp_path: Path
) -> None:
    archive = shutil.copytree(simulated, tmp_path / "archive")
    exchange("B04", "B02")(archive / "tiles" / "2022" / "0_40_40_80")
    params = prepare(workspace, archive)
    with pytest.raises(ValidationFailed) as caught:
        validate(workspace, params)
    kept = workspace.state / "validation" / "archive" / "verdict.json"
    assert str(kept) in str(caught.value)
    assert "2022/0_40_40_80 s2 B02: band_order" in str(caught.value)
    assert "(B04)" in str(caught.value)
    content = json.loads(kept.read_text())
    assert content["success"] is False
    assert {"tile", "band", "expectation", "found", "expected"} <= set(content["failures"][0])
    assert not workspace.output("validate").exists()


def test_empty_table_never_passes(simulated: Path) -> None:
    catalogue = replace(catalogue_of(simulated), entries=())
    verdict, _ = judge_archive(catalogue, LIMITS)
    assert not verdict.success
    assert "row_count" in {failure.expectation for failure in verdict.failures}
