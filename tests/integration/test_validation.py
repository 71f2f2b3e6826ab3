"""Plant every fault that an archive may have, and see it named; clean archives must pass."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import ValidationFailed
from tasks.files import files_below
from tasks.ingest import Catalogue, ingest, make_catalogue
from tasks.params import read_params
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.validate import judge_archive, validate
from tasks.validation.verdict import Verdict
from tasks.workspace import Workspace
from tests.archive_faults import ALSO, ASC, DESC, FAULTS, edit, exchange, put, remove

REPOSITORY = Path(__file__).parents[2]
LIMITS = read_params(REPOSITORY / "params.yaml").validate_


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
