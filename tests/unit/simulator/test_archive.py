"""The archive on disk: the public layout, the same bytes, whatever the order."""

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import tasks.simulator
from tasks.errors import DataError
from tasks.simulate import main, write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.orbits import ASCENDING, DESCENDING, passes
from tasks.simulator.tile import simulate_tile

TINY = SimulatorConfig(seed=7, num_tiles=2, tile_size_px=16, years=(2021, 2022))
GOLDEN = "d2f7ac07af9c8846f298082fa2945bb7ada23c2e0265d778dc1383214adadbb5"

# Library functions whose last bit, or whose order of summation, may differ between machines.
BANNED = {
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "arcsin",
    "arccos", "arctan", "arctan2", "tanh", "sinh", "cosh", "hypot", "power", "float_power", "pow",
    "cbrt", "interp", "dot", "vdot", "inner", "outer", "matmul", "einsum", "tensordot", "linalg",
    "fft", "random", "mean", "average", "std", "var", "sum", "nansum", "cumsum", "prod", "cumprod",
    "median", "percentile", "quantile", "convolve", "correlate", "polyfit", "polyval", "trapezoid",
    "gradient", "default_rng", "fsum",
}  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "data"
    write_archive(TINY, root)
    return root


def content_digest(root: Path) -> str:
    """Digest of array files as bytes, and of rasters by their decoded pixels.

    GeoTIFF tags are written by GDAL and may change with its version; pixels may not.
    """
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.npy")) + sorted(root.rglob("*.tif*")):
        digest.update(path.relative_to(root).as_posix().encode())
        if path.suffix == ".npy":
            digest.update(path.read_bytes())
        else:
            with rasterio.open(path) as raster:
                digest.update(raster.read(1).tobytes())
    return digest.hexdigest()


def test_archive_has_the_golden_digest(archive: Path) -> None:
    assert content_digest(archive) == GOLDEN


def test_writing_twice_gives_the_same_bytes_including_rasters(
    archive: Path, tmp_path: Path
) -> None:
    write_archive(TINY, tmp_path / "again")
    files = sorted(path.relative_to(archive) for path in archive.rglob("*") if path.is_file())
    for name in files:
        assert (archive / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_tile_alone_equals_the_tile_in_the_archive(archive: Path) -> None:
    tile = simulate_tile(TINY, 1, 2022)
    folder = archive / "tiles" / "2022" / tile.name
    for name, values in tile.arrays().items():
        stored = np.load(folder / f"{name}.npy")
        assert stored.dtype == values.dtype
        np.testing.assert_array_equal(stored, values)


def test_neighbouring_tiles_are_one_world() -> None:
    wide = SimulatorConfig(seed=7, num_tiles=1, tile_size_px=32)
    narrow = SimulatorConfig(seed=7, num_tiles=4, tile_size_px=16)
    whole, part = simulate_tile(wide, 0, 2021), simulate_tile(narrow, 3, 2021)
    common = np.isin(whole.doys, part.doys)
    np.testing.assert_array_equal(whole.bands[common][:, 16:, 16:], part.bands)
    np.testing.assert_array_equal(whole.masks[common][:, 16:, 16:], part.masks)
    np.testing.assert_array_equal(whole.land_cover[16:, 16:], part.land_cover)
    np.testing.assert_array_equal(whole.biomass[16:, 16:], part.biomass)


def test_layout_is_the_public_one(archive: Path) -> None:
    folder = archive / "tiles" / "2021" / "16_0_32_16"
    bands, masks, doys = (np.load(folder / f"{name}.npy") for name in ("bands", "masks", "doys"))
    assert (bands.dtype, masks.dtype, doys.dtype) == (np.uint16, np.uint8, np.uint16)
    assert bands.shape == (len(doys), 16, 16, 10)
    assert masks.shape == bands.shape[:3]
    assert set(np.unique(masks)) == {0, 1}
    assert (np.diff(doys.astype(int)) > 0).all()
    assert 60 <= len(doys) <= 150
    assert (masks[bands[..., 0] == 0] == 0).all()
    for side in ("ascending", "descending"):
        codes, days = np.load(folder / f"sar_{side}.npy"), np.load(folder / f"sar_{side}_doy.npy")
        assert (codes.dtype, days.dtype) == (np.int16, np.int16)
        assert codes.shape == (len(days), 16, 16, 2)
        assert ((codes > 0).all(axis=-1) | (codes == 0).all(axis=-1)).all()


def test_coarse_bands_are_squares_of_20_m(archive: Path) -> None:
    bands = np.load(archive / "tiles" / "2021" / "0_0_16_16" / "bands.npy")
    inside = (bands[..., 0] > 0).all(axis=(1, 2))
    coarse, fine = bands[inside][..., 4:], bands[inside][..., :4]
    np.testing.assert_array_equal(coarse[:, ::2, ::2], coarse[:, 1::2, 1::2])
    assert (fine[:, ::2, ::2] != fine[:, 1::2, 1::2]).mean() > 0.9


def test_rasters_lie_on_one_map(archive: Path) -> None:
    path = archive / "tiles" / "2021" / "16_0_32_16" / "roi.tiff"
    with (
        rasterio.open(path) as roi,
        rasterio.open(archive / "labels" / "2021" / "16_0_32_16_land_cover.tif") as cover,
    ):
        assert roi.dtypes == ("uint8",)
        assert cover.dtypes == ("uint16",)
        assert roi.crs.to_epsg() == 32631
        assert roi.transform == cover.transform
        assert (roi.transform.c, roi.transform.a) == (600_160.0, 10.0)
        assert roi.read(1).min() == 1


def test_labels_agree_with_their_legend(archive: Path) -> None:
    legend = json.loads((archive / "labels" / "land_cover.json").read_text())
    for path in archive.glob("labels/*/*_land_cover.tif"):
        with rasterio.open(path) as raster:
            codes = set(np.unique(raster.read(1)).tolist()) - {0}
        assert codes <= {int(code) for code in legend}
        biomass_path = path.with_name(path.name.replace("land_cover", "biomass"))
        with rasterio.open(biomass_path) as raster:
            biomass = raster.read(1)
        grown = biomass[np.isfinite(biomass)]
        assert ((grown > 0) & (grown < 60)).all()


def test_loss_of_sentinel_1b_halves_the_radar_dates_of_2022() -> None:
    for orbit in (ASCENDING, DESCENDING):
        before, after = (len(passes(TINY, (orbit,), year)) for year in (2021, 2022))
        assert 55 <= before <= 61
        assert before / after == pytest.approx(2.0, abs=0.2)


def test_an_existing_folder_is_never_written_into(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exist"):
        write_archive(TINY, tmp_path)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_archive(TINY, tmp_path / "data", progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_command_line_writes_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tiles", "1", "--size", "4", "--years", "2022", "--seed", "7"]
    main(["--out", str(tmp_path / "data"), *options])
    assert "2022 0_0_4_4" in capsys.readouterr().err
    assert len(list((tmp_path / "data" / "tiles" / "2022").iterdir())) == 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [("seed", -1), ("num_tiles", 0), ("tile_size_px", 15), ("years", ()), ("years", (2022, 2021)),
     ("years", (2016,)), ("cloud_cover", 0.95), ("parcel_size_px", 1.0)],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{setting}: expected"):
        SimulatorConfig(**{setting: value})


@pytest.mark.parametrize(
    "path", sorted(Path(tasks.simulator.__file__).parent.glob("*.py")), ids=lambda path: path.name
)
def test_only_exactly_rounded_arithmetic_is_used(path: Path) -> None:
    """No transcendental function, no float reduction, no matrix product, no power."""
    tree = ast.parse(path.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert used & BANNED == set()
    operators = [node.op for node in ast.walk(tree) if isinstance(node, ast.BinOp)]
    assert not any(isinstance(op, ast.Pow | ast.MatMult) for op in operators)
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= {"numpy"}
