"""Measure ingest against plain reads of the same rasters: same window, same bands, same resampling.

    python -m benchmarks.ingest

A static catalogue is made first: scenes of 1,536 x 1,536 pixels in COGs as archives store them (10 m
and 20 m bands, blocks of 256, DEFLATE), of which ingest takes a window of 500 x 500. The plain side
opens each raster with rasterio and reads the window into memory, and no more: no search, no offset, no
mosaic, no files. Both use one thread, in turn; figures are medians of CPU time, since a shared machine
changes its speed and a disk its pauses. Results are in `benchmarks/results/ingest.json`.

| word | means |
|---|---|
| pixels x dates | pixels of the window times dates of all sensors |
| ratio | rate of ingest over rate of the plain reads, the median of rounds |
| share of bytes | bytes sent by a web server for the window, over the bytes of the rasters |
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import Affine, array_bounds, from_origin
from rasterio.warp import transform_geom
from rasterio.windows import from_bounds
from scipy.ndimage import gaussian_filter
from typer.main import get_command

from benchmarks.measuring import RESULTS, cpu_seconds, machine, show
from models.bands import S2_BANDS
from tasks.cli import app
from tasks.stac.providers import CLASSES, PLANETARY_COMPUTER, RTC
from tasks.stac.scenes import save_catalogue, write_scene
from tests.range_server import serve

CRS, GRID = "EPSG:32631", from_origin(596_000, 5_662_000, 10, 10)
SCENE_PX, WINDOW_PX, OFFSET_PX = 1536, 500, (310, 270)
OPTICAL_DATES, PASSES = 32, 24  # passes of each direction
DISTINCT = 4
"""Scenes of each sensor that have rasters of their own; later ones point to the same, in turn."""
TEN_METRES = ("B04", "B02", "B03", "B08")
ROUNDS = 7
"""Rounds of both sides in turn."""
FIRST = datetime(2021, 3, 1, 10, 30, tzinfo=UTC)


def write_catalogue(out: Path) -> Path:
    """Write scenes of made-up ground: smooth fields with noise, which compress like real ones."""
    rng = np.random.default_rng(1)
    fine, coarse = (field(rng, size) for size in (SCENE_PX, SCENE_PX // 2))
    optical = [optical_scene(out, number, fine, coarse) for number in range(DISTINCT)]
    items = [later(optical[n % DISTINCT], timedelta(5 * n)) for n in range(OPTICAL_DATES)]
    power = (0.02 + 0.1 * fine).astype(np.float32)
    for orbit in ("ascending", "descending"):
        scene = radar_scene(out, orbit, power)
        items += [later(scene, timedelta(6 * n)) for n in range(PASSES)]
    return save_catalogue(items, out)


def later(scene: pystac.Item, delay: timedelta) -> pystac.Item:
    """Return an item of another date with the same rasters."""
    item = scene.clone()
    item.datetime = FIRST + delay
    item.id = f"{scene.id}_{item.datetime:%Y%m%d}"
    return item


def field(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return (size, size) in 0..1."""
    smooth = gaussian_filter(rng.standard_normal((size, size)), 6)
    rough = smooth / smooth.std() + 0.2 * rng.standard_normal((size, size))
    scaled: np.ndarray = np.clip(0.5 + rough / 8, 0, 1)
    return scaled


def optical_scene(out: Path, number: int, fine: np.ndarray, coarse: np.ndarray) -> pystac.Item:
    """Write a scene as Planetary Computer has it, without the offset."""
    keys, grid20 = PLANETARY_COMPUTER.keys, GRID * Affine.scale(2)
    assets: dict[str, Any] = {}
    for index, band in enumerate(S2_BANDS):
        values, grid = (fine, GRID) if band in TEN_METRES else (coarse, grid20)
        assets[keys[band]] = ((200 + 150 * index + 800 * values).astype(np.uint16), grid)
    clouds = np.where(np.roll(coarse, 97 * number, axis=0) > 0.55, 9, 4)
    assets[keys[CLASSES]] = (clouds.astype(np.uint8), grid20)
    said = {"s2:mgrs_tile": "31UFS", "s2:processing_baseline": "03.01"}
    return write_scene(
        out, f"S2A_31UFS_{number}", "sentinel-2-l2a", FIRST, crs=CRS, transform=GRID,
        assets=assets, nodata=dict.fromkeys(assets, 0), properties=said,
    )  # fmt: skip


def radar_scene(out: Path, orbit: str, power: np.ndarray) -> pystac.Item:
    """Write a scene of linear power."""
    keys = list(RTC.keys.values())
    return write_scene(
        out, f"S1A_{orbit}", RTC.collections[0], FIRST, crs=CRS, transform=GRID,
        assets=dict.fromkeys(keys, power), nodata=dict.fromkeys(keys, RTC.nodata),
        properties={RTC.orbit_property: orbit},
    )  # fmt: skip


def outline(path: Path) -> Path:
    """Write the window as GeoJSON, a metre inside: snapped outward to 10 m it is the window."""
    grid = window_grid()
    left, top, size = grid.c, grid.f, WINDOW_PX * 10
    corners = [(left + 1, top - size + 1), (left + size - 1, top - 1)]
    (west, south), (east, north) = corners
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    shape = {"type": "Polygon", "coordinates": [ring]}
    path.write_text(json.dumps(dict(transform_geom(CRS, "EPSG:4326", shape))))
    return path


def window_grid() -> Affine:
    """Return the transform of the window."""
    return GRID * Affine.translation(*OFFSET_PX)


def rasters_of(catalogue: Path) -> list[Path]:
    """Return the rasters of all items, item by item in the order of time, bands in theirs."""
    items = pystac.Catalog.from_file(str(catalogue)).get_items(recursive=True)
    return [
        Path(str(asset.get_absolute_href()))
        for item in sorted(items, key=lambda item: (str(item.collection_id), str(item.datetime)))
        for asset in item.assets.values()
    ]


def read_plainly(rasters: list[Path]) -> None:
    """Read rasters onto the window, one after the other, the shortest way that rasterio has."""
    for path in rasters:
        plain_read(path)


def plain_read(path: Path) -> np.ndarray:
    """Read one raster onto the window."""
    is_class = path.stem == PLANETARY_COMPUTER.keys[CLASSES]
    bounds = array_bounds(WINDOW_PX, WINDOW_PX, window_grid())
    with rasterio.open(path) as raster:
        values: np.ndarray = raster.read(
            1,
            window=from_bounds(*bounds, raster.transform),
            out_shape=(WINDOW_PX, WINDOW_PX),
            resampling=Resampling.nearest if is_class else Resampling.bilinear,
        )
    return values


def ingest(catalogue: Path | str, window: Path, out: Path) -> Path:
    """Ingest by the command, on one worker, and return the tile folder."""
    shutil.rmtree(out, ignore_errors=True)
    given: list[object] = ["--provider", "static", "--catalog", catalogue, "--geometry", window]
    given += ["--years", FIRST.year, "--out", out, "--workers", 1, "--json"]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        code = get_command(app).main(["ingest", *map(str, given)], standalone_mode=False)
    if code:
        raise RuntimeError(f"tessera ingest ended with {code}")
    return next(out.rglob("bands.npy")).parent


def agreement(tile: Path, rasters: list[Path]) -> float:
    """Return the share of optical values in the tile that equal the plain ones."""
    names = [PLANETARY_COMPUTER.keys[band] for band in S2_BANDS]
    equal = [
        np.mean(bands[..., names.index(path.stem)] == plain_read(path))
        for number, bands in enumerate(np.load(tile / "bands.npy", mmap_mode="r"))
        for path in optical_rasters(rasters, number)
        if path.stem in names
    ]
    return float(np.mean(equal))


def optical_rasters(rasters: list[Path], date: int) -> list[Path]:
    """Return those of one optical date."""
    own = [path for path in rasters if path.parts[-3] == "sentinel-2-l2a"]
    size = len(own) // OPTICAL_DATES
    return own[date * size : (date + 1) * size]


def measure(work: Path) -> dict[str, Any]:
    """Take both sides in turn."""
    catalogue = write_catalogue(work / "catalogue")
    window, out = outline(work / "window.json"), work / "out"
    rasters, tile = rasters_of(catalogue), ingest(catalogue, window, out)
    share = agreement(tile, rasters)
    seconds: dict[str, list[float]] = {"plain": [], "ingest": []}
    for _ in range(ROUNDS):
        seconds["plain"].append(cpu_seconds(lambda: read_plainly(rasters)))
        seconds["ingest"].append(cpu_seconds(lambda: ingest(catalogue, window, out)))
    times = {name: statistics.median(values) for name, values in seconds.items()}
    dates = OPTICAL_DATES + 2 * PASSES
    found = {
        "window_px": WINDOW_PX,
        "dates": {"optical": OPTICAL_DATES, "radar": 2 * PASSES},
        "pixel_dates_per_cpu_s": {n: WINDOW_PX**2 * dates / value for n, value in times.items()},
        "ratio": statistics.median(
            plain / own for plain, own in zip(seconds["plain"], seconds["ingest"], strict=True)
        ),
        "equal_share": share,
    }
    show("ingest", found)
    return found


def measure_ranges(work: Path) -> dict[str, Any]:
    """Count what a web server sends for the window."""
    catalogue = work / "catalogue"
    window = outline(work / "window.json")
    with serve(catalogue) as server:
        ingest(f"{server.url}/catalog.json", window, work / "net")
    rasters = rasters_of(catalogue / "catalog.json")
    size = sum(path.stat().st_size for path in rasters)
    requests = [answer for answer in server.answers if answer.path.endswith(".tif")]
    found = {
        "share_of_bytes": sum(answer.num_bytes for answer in requests) / size,
        "share_of_area": WINDOW_PX**2 / SCENE_PX**2,
        "requests_per_raster": len(requests) / len(rasters),
    }
    show("ranges", found)
    return found


def main() -> None:
    """Measure and keep."""
    form = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=form).parse_args()
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder:
        found = {"local": measure(Path(folder)), "ranges": measure_ranges(Path(folder))}
    text = json.dumps(found | {"machine": machine()}, indent=1)
    (RESULTS / "ingest.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
