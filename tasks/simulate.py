"""Write a simulated archive: tile folders in the public layout, label rasters, a licence.

    python -m tasks.simulate --out data

    data/tiles/<year>/<xmin>_<ymin>_<xmax>_<ymax>/{bands,masks,doys,sar_*}.npy, roi.tiff
    data/labels/<year>/<tile>_{land_cover,parcel,biomass,green_up}.tif
    data/labels/land_cover.json, data/LICENSE.txt, data/README.md

The world itself is in ``tasks/simulator``; this module only gives it a place on the disk and on the
Earth. Tiles are adjacent on one 10 m grid (UTM 31N), so parcels continue from one to the next. The
archive is built beside its place and renamed when complete.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import Affine

from tasks.errors import DataError
from tasks.files import canonical_json, sync_tree
from tasks.simulator.classes import CLASSES
from tasks.simulator.config import SimulatorConfig
from tasks.simulator.tile import SimulatedTile, simulate_tile

_CRS = "EPSG:32631"
_GROUND_M = 10.0
_WEST_M, _NORTH_M = 600_000.0, 5_650_000.0

_LICENCE = """\
CC0 1.0 Universal

The simulated archive in this folder is dedicated to the public domain:
https://creativecommons.org/publicdomain/zero/1.0/legalcode
It was computed; it contains no Copernicus data and no data of any other source.
"""

_README = """\
# Simulated Sentinel-1 and Sentinel-2 archive

`tiles/<year>/<xmin>_<ymin>_<xmax>_<ymax>/` are tile folders in the d-pixel layout: `bands.npy`
uint16 (T, H, W, 10) DN without the +1000 offset, `masks.npy` uint8 1 = clear, `doys.npy` uint16,
`sar_ascending.npy` and `sar_descending.npy` int16 (T, H, W, 2) (20 log10(power) + 50) x 200 with
0 = no data, their `_doy.npy` int16, and `roi.tiff`. S2 order: B04 B02 B03 B08 B8A B05 B06 B07 B11
B12. S1 order: VV VH. Names are pixel offsets on one map, 10 m, EPSG:32631.

`labels/<year>/<tile>_*.tif`, on the same grid: `land_cover` (uint16, codes in
`labels/land_cover.json`, 0 = none: mixed pixel), `parcel` (uint16: split train and test by it),
`biomass` (float32 t/ha of dry matter grown in the year, NaN = none), `green_up` (float32 day of
year, NaN = none).

Worth knowing: cloud masks make mistakes, as real ones do; optical swaths of two orbits overlap in
part of the map (outside a swath DN and mask are 0); a strip has no descending radar pass; about
0.6 % of 20 m squares have no clear optical observation and as many have no radar; Sentinel-1B fails
on 2021-12-23, after which radar dates halve.

Made by `python -m tasks.simulate`; the same configuration gives the same arrays on any machine:
"""


def write_archive(
    config: SimulatorConfig, root: Path, *, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Simulate and write a whole archive.

    Args:
        config: World, window and years.
        root: Folder that must not exist yet; it appears complete or not at all.
        progress: Called with one line per written tile.

    Raises:
        DataError: if ``root`` exists.
    """
    if root.exists():
        raise DataError(
            "a folder that does not exist yet",
            found="an existing one",
            where=str(root),
            mend="Choose another --out, or move the old archive away.",
        )
    aside = root.with_name(f".{root.name}.{os.getpid()}.part")
    try:
        for year in config.years:
            for index in range(config.num_tiles):
                tile = simulate_tile(config, index, year)
                _write_tile(tile, aside, config.origin(index))
                progress(f"{year} {tile.name}: {tile.doys.size} optical dates")
        _write_notes(config, aside)
        sync_tree(aside)
        aside.rename(root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_tile(tile: SimulatedTile, root: Path, origin: tuple[int, int]) -> None:
    """Write one tile folder and its label rasters."""
    folder = root / "tiles" / str(tile.year) / tile.name
    folder.mkdir(parents=True)
    for name, values in tile.arrays().items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    _write_raster(folder / "roi.tiff", np.ones(tile.parcel.shape, np.uint8), origin)
    labels = root / "labels" / str(tile.year)
    labels.mkdir(parents=True, exist_ok=True)
    for name, values in tile.labels().items():
        _write_raster(labels / f"{tile.name}_{name}.tif", values, origin)


def _write_raster(path: Path, values: npt.NDArray[np.generic], origin: tuple[int, int]) -> None:
    """Write a one-band GeoTIFF whose upper left corner is map pixel ``origin``.

    Decision: uncompressed, in one strip a row block, so that the bytes do not depend on the version
    of a compression library; the public layout's LZW is optional to every reader.
    """
    x, y = origin
    transform = Affine(
        _GROUND_M, 0.0, _WEST_M + _GROUND_M * x, 0.0, -_GROUND_M, _NORTH_M - _GROUND_M * y
    )
    height, width = values.shape
    nodata = np.nan if values.dtype.kind == "f" else None
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype=values.dtype,
        crs=_CRS, transform=transform, nodata=nodata, tiled=False,
    ) as raster:  # fmt: skip
        raster.write(values, 1)


def _write_notes(config: SimulatorConfig, root: Path) -> None:
    """Write class names, licence and read-me."""
    classes = {
        str(code): {"name": item.name, "colour": item.colour}
        for code, item in enumerate(CLASSES, start=1)
    }
    (root / "labels" / "land_cover.json").write_text(canonical_json(classes))
    (root / "LICENSE.txt").write_text(_LICENCE)
    settings = "".join(f"- {name}: {value}\n" for name, value in asdict(config).items())
    (root / "README.md").write_text(_README + "\n" + settings)


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Write an archive from the command line."""
    standard = SimulatorConfig()
    parser = argparse.ArgumentParser(description="Write a simulated Sentinel-1/2 archive.")
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--tiles", type=int, default=standard.num_tiles, help="tiles per year")
    parser.add_argument("--size", type=int, default=standard.tile_size_px, help="tile side, pixels")
    parser.add_argument("--years", type=int, nargs="+", default=list(standard.years))
    parser.add_argument("--seed", type=int, default=standard.seed, help="world number")
    chosen = parser.parse_args(arguments)
    config = SimulatorConfig(
        seed=chosen.seed,
        num_tiles=chosen.tiles,
        tile_size_px=chosen.size,
        years=tuple(chosen.years),
    )
    write_archive(config, chosen.out, progress=_tell)


if __name__ == "__main__":
    main()
