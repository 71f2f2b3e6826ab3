"""Small catalogues with one thing wrong or odd in them, and runs of ``tessera ingest`` on them.

The ground is a dark vegetated square of 24 pixels; what the items say and what their pixels hold are
chosen apart from each other, since real archives do not make them agree either.
"""

import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyproj
import pystac
import rasterio
from rasterio.transform import Affine, from_origin

from tasks.stac.scenes import save_catalogue, write_scene
from tests.project import REPOSITORY, environment

SIZE = 24
CRS = "EPSG:32631"
GRID = from_origin(604_000, 5_652_000, 10, 10)
"""Upper left corner of the ground: inside the cell whose centre is 4.45 51.05."""
DAY = date(2022, 1, 5)
POWER = np.full((SIZE, SIZE, 2), 0.1, np.float32)
CODE = 6000
"""Of power 0.1: (20 log10(0.1) + 50) x 200."""
NOTHING: Mapping[str, Any] = MappingProxyType({})

# Written out here a second time, on purpose: the tests do not ask the code under test.
BANDS = ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12")
NAMES = ("red", "blue", "green", "nir", "nir08", "rededge1", "rededge2", "rededge3")
EARTH_SEARCH = dict(zip((*BANDS, "SCL"), (*NAMES, "swir16", "swir22", "scl"), strict=True))
PLANETARY_COMPUTER = {band: band for band in (*BANDS, "SCL")}
CDSE = {
    band: f"{band}_{10 if band in ('B02', 'B03', 'B04', 'B08') else 20}m"
    for band in (*BANDS, "SCL")
}


def surface(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Return (size, size, 10) digital numbers of vegetation: 100..600 visible, 500..3500 beyond."""
    random = np.random.default_rng(seed)
    values = random.integers(500, 3500, (size, size, len(BANDS)))
    values[..., :3] = random.integers(100, 600, (size, size, 3))
    return values.astype(np.uint16)


def optical(
    out: Path,
    day: date,
    values: np.ndarray,
    *,
    classes: np.ndarray | int = 4,
    added: int = 0,
    keys: Mapping[str, str] = EARTH_SEARCH,
    collection: str = "sentinel-2-l2a",
    square: str = "31UFS",
    copy: str = "0",
    baseline: str | None = "03.01",
    at: time = time(10, 56),
    place: tuple[str, Affine] = (CRS, GRID),
    scale_offset: Mapping[str, tuple[float, float]] = NOTHING,
    properties: Mapping[str, Any] = NOTHING,
) -> pystac.Item:
    """Write a Sentinel-2 scene.

    Args:
        out: The catalogue's folder.
        day: UTC day.
        values: (H, W, 10) digital numbers without offset, 0 is no data.
        classes: Scene classification, (H, W) or one for all.
        added: What is added to the pixels that have data.
        keys: Asset key of each band.
        collection: Its collection.
        square: MGRS square.
        copy: Number of the reprocessing.
        baseline: What the item calls its processing baseline; ``None``: it does not say.
        at: Time of the day, UTC.
        place: CRS and transform.
        scale_offset: By asset key, as ``write_scene`` takes it.
        properties: Further properties.
    """
    crs, transform = place
    pixels = np.where(values > 0, values + np.uint16(added), 0).astype(np.uint16)
    assets = {keys[band]: pixels[..., index] for index, band in enumerate(BANDS)}
    scene_classes = np.broadcast_to(np.asarray(classes, np.uint8), values.shape[:2])
    assets[keys["SCL"]] = np.ascontiguousarray(scene_classes)
    said = {
        "platform": "sentinel-2a",
        "grid:code": f"MGRS-{square}",
        "s2:mgrs_tile": square,
        "s2:datatake_id": f"GS2A_{day:%Y%m%d}T105600",
    }
    if baseline is not None:
        said["s2:processing_baseline"] = baseline
    return write_scene(
        out,
        f"S2A_{square}_{day:%Y%m%d}_{copy}_L2A",
        collection,
        datetime.combine(day, at, UTC),
        crs=crs,
        transform=transform,
        assets=assets,
        nodata=dict.fromkeys(assets, 0),
        properties=said | dict(properties),
        scale_offset=scale_offset,
    )


def radar(
    out: Path,
    day: date,
    orbit: str,
    power: np.ndarray,
    *,
    place: tuple[str, Affine] = (CRS, GRID),
    part: str = "",
) -> pystac.Item:
    """Write a Sentinel-1 scene of linear power, (H, W, 2) float32 with -32768 for no data."""
    crs, transform = place
    hour = {"ascending": 17, "descending": 5}[orbit]
    return write_scene(
        out,
        f"S1A_IW_{day:%Y%m%d}T{hour:02d}{part}_{orbit}_rtc",
        "sentinel-1-rtc",
        datetime.combine(day, time(hour, 25), UTC),
        crs=crs,
        transform=transform,
        assets={"vv": power[..., 0], "vh": power[..., 1]},
        nodata={"vv": -32768, "vh": -32768},
        properties={"platform": "sentinel-1a", "sat:orbit_state": orbit},
    )


def outline(
    path: Path, *, grid: Affine = GRID, shape: tuple[int, int] = (SIZE, SIZE), crs: str = CRS
) -> Path:
    """Write the outline of a window as GeoJSON, a metre inside: snapped outward, it is the window."""
    west, north = grid.c + 1, grid.f - 1
    east, south = grid.c + grid.a * shape[1] - 1, grid.f + grid.e * shape[0] + 1
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    ring = [list(to_degrees.transform(x, y)) for x, y in corners]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return path


@dataclass(frozen=True)
class Read:
    """A tile folder that ingest wrote."""

    folder: Path
    transform: Affine
    crs: str

    def __getitem__(self, name: str) -> np.ndarray:
        array: np.ndarray = np.load(self.folder / f"{name}.npy", allow_pickle=False)
        return array

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.npy").exists()

    @property
    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "source.json").read_text()))

    def days(self, year: int) -> list[date]:
        first = date(year, 1, 1).toordinal() - 1
        return [date.fromordinal(first + int(doy)) for doy in self["doys"]]


def tiles(out: Path) -> list[Read]:
    """Return the tile folders of an output, sorted by path."""
    found = []
    for path in sorted(out.rglob("roi.tiff")):
        if not any(part.startswith(".") for part in path.relative_to(out).parts):
            with rasterio.open(path) as raster:
                found.append(Read(path.parent, raster.transform, raster.crs.to_string()))
    return found


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    said: str

    @property
    def all(self) -> str:
        return self.out + self.said


def arguments(catalogue: Path | str, out: Path, window: Path, *more: object) -> list[str]:
    """Return the command line of ``tessera ingest``, from the static catalogue and for 2022 at first."""
    given: list[object] = ["--geometry", window, "--out", out, *more]
    if "--provider" not in more:
        given += ["--provider", "static", "--catalog", catalogue]
    if "--years" not in more:
        given += ["--years", "2022"]
    return ["ingest", *map(str, given)]


def ingest(catalogue: Path | str, out: Path, window: Path, *more: object, code: int = 0) -> Done:
    """Run ``tessera ingest`` in this process; fails the test on another exit code."""
    from tasks import cli

    before, sys.argv = sys.argv, ["tessera", *arguments(catalogue, out, window, *more)]
    said, errors, ended = io.StringIO(), io.StringIO(), 0
    try:
        with redirect_stdout(said), redirect_stderr(errors):
            cli.main()
    except SystemExit as end:
        ended = end.code if isinstance(end.code, int) else 1
        errors.write(end.code if isinstance(end.code, str) else "")
    finally:
        sys.argv = before
    done = Done(ended, said.getvalue(), errors.getvalue())
    assert done.code == code, f"{done.code}\n{done.out}\n{done.said}"
    return done


def start(line: Sequence[str], **more: str) -> subprocess.Popen[str]:
    """Start ``tessera`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.cli", *line],
        cwd=REPOSITORY,
        env=environment(REPOSITORY, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def catalogue_of(out: Path, *items: pystac.Item) -> Path:
    """Save a catalogue whose items are given in any order."""
    return save_catalogue(items, out)


def read(tmp_path: Path, *items: pystac.Item, years: int = 2022) -> Read:
    """Ingest scenes that were written to ``tmp_path/catalogue``; return the one tile of them."""
    catalogue = catalogue_of(tmp_path / "catalogue", *items)
    ingest(catalogue, tmp_path / "out", outline(tmp_path / "w.json"), "--years", years)
    (found,) = tiles(tmp_path / "out")
    return found


def rewrite(item: Path, **changes: Any) -> None:
    """Change a saved item: a function for each top-level field, called with what is there."""
    document = json.loads(item.read_text())
    for name, change in changes.items():
        document[name] = change(document.get(name))
    item.write_text(json.dumps(document))
