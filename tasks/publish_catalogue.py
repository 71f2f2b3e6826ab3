"""Publish an archive of tile folders as a static STAC catalogue of COGs.

    python -m tasks.publish_catalogue --archive data --out catalogue
    python -m tasks.publish_catalogue --archive data --out catalogue --profile planetary-computer

    catalogue/catalog.json
    catalogue/sentinel-2-l2a/<scene>/{<scene>.json,red.tif,...,scl.tif}
    catalogue/sentinel-1-rtc/<scene>/{<scene>.json,vv.tif,vh.tif}

The way back of `tessera ingest --provider static`: what ingest reads over a tile's window is the tile,
bit for bit, which proves ingest and lets one try it without a network. The catalogue is built beside
its place and renamed when complete. It deliberately invents no georeference: a tile without one is
refused.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR
from pathlib import Path

import pystac
from rasterio.transform import Affine

from tasks.errors import DataError, TesseraError
from tasks.files import sync_folder, sync_tree
from tasks.georeference import read_georeference
from tasks.progress import say, track
from tasks.stac.optical_scenes import PROFILES, Form, publish_optical
from tasks.stac.place import Place
from tasks.stac.providers import RTC
from tasks.stac.radar_scenes import publish_radar
from tasks.stac.scenes import save_catalogue
from tasks.tiles import REGION, TileRef, find_labels, find_tiles, read_tile


@dataclass(frozen=True, slots=True)
class Published:
    """What a catalogue holds."""

    catalogue: Path
    """Its ``catalog.json``."""
    num_tiles: int
    """Tile folders that were published."""
    num_optical: int
    """Sentinel-2 scenes."""
    num_radar: int
    """Sentinel-1 scenes, both directions."""


def publish_catalogue(archive: Path, out: Path, form: Form, *, year: int = 0) -> Published:
    """Write every tile of an archive as scenes, and the catalogue that links them.

    Args:
        archive: Folder of tile folders.
        out: Folder that must not exist yet; it appears complete or not at all.
        form: How scenes are stored, and which provider they imitate.
        year: Year of the tiles whose path names none.

    Returns:
        Where the catalogue is, and what it holds.

    Raises:
        DataError: ``out`` exists, or a tile breaks the layout, has no georeference or no year.
    """
    if out.exists():
        raise DataError(
            "a folder that does not exist yet",
            found="an existing one",
            where=str(out),
            mend="Choose another --out, or remove the old catalogue.",
        )
    refs = find_tiles(archive)
    grounds = sorted({_ground(ref) for ref in refs})
    places = [_place(archive, ref, grounds.index(_ground(ref)), year) for ref in refs]
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        items: list[pystac.Item] = []
        tiles = zip(refs, places, strict=True)
        for ref, place in track(tiles, label="publish", total=len(refs), unit="tiles"):
            items += _publish_tile(aside, ref, place, form)
        save_catalogue(items, aside)
        sync_tree(aside)
        aside.rename(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    num_radar = sum(item.collection_id in RTC.collections for item in items)
    return Published(out / "catalog.json", len(refs), len(items) - num_radar, num_radar)


def _publish_tile(out: Path, ref: TileRef, place: Place, form: Form) -> Iterator[pystac.Item]:
    tile = read_tile(ref)
    yield from publish_optical(out, tile, place, form)
    yield from publish_radar(out, tile, place)


def _place(archive: Path, ref: TileRef, number: int, year: int) -> Place:
    """Find out where and when a tile is: from its region raster, else from a label raster."""
    rasters = [ref.folder / REGION, *find_labels(archive, ref).values()]
    found = [read_georeference(path) for path in rasters if path.is_file()]
    crs = next((at["crs"] for at in found if str(at["crs"]).startswith("EPSG:")), None)
    if crs is None:
        raise DataError(
            f"a georeference with an EPSG code, in {REGION} or a label raster",
            found="none",
            where=f"tile {ref.key}",
            mend=f"Put a georeferenced {REGION} into {ref.folder}.",
        )
    if not MINYEAR <= (ref.year or year) <= MAXYEAR:
        raise DataError(
            "a folder of four digits above the tile, its year",
            found=str(year or "none"),
            where=f"tile {ref.key}",
            mend="Give --year.",
        )
    transform = next(at["transform"] for at in found if at["crs"] == crs)
    squares = _square(crs, 2 * number), _square(crs, 2 * number + 1)
    return Place(crs, Affine(*transform), squares, ref.year or year)


def _ground(ref: TileRef) -> str:
    """Return what a tile has in common with the same ground in other years: its path without it."""
    return "/".join(part for part in ref.key.split("/") if part != str(ref.year))


def _square(crs: str, number: int) -> str:
    """Name a square as MGRS does: UTM zone, band, two letters; the next band once those run out."""
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    band, rest = divmod(number, len(letters) ** 2)
    first, second = divmod(rest, len(letters))
    return f"{crs[-2:]}{'UVWXCDEFGHJKLMNPQRST'[band]}{letters[first]}{letters[second]}"


def main(arguments: list[str] | None = None) -> None:
    """Publish from the command line."""
    parser = argparse.ArgumentParser(
        description="Publish an archive of tile folders as a static STAC catalogue of COGs.",
        epilog="Example: python -m tasks.publish_catalogue --archive data --out catalogue; "
        "docs/ingest.md says how it is read back.",
    )
    parser.add_argument("--archive", type=Path, required=True, help="folder of tile folders")
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--profile", choices=PROFILES, default="earth-search", help="its scenes")
    parser.add_argument("--year", type=int, default=0, help="of tiles whose path names none")
    parser.add_argument("--split", action="store_true", help="two overlapping scenes a date")
    parser.add_argument("--native", action="store_true", help="store 20 m bands at 20 m")
    chosen = parser.parse_args(arguments)
    form = Form(PROFILES[chosen.profile], is_split=chosen.split, is_native=chosen.native)
    done = publish_catalogue(chosen.archive, chosen.out, form, year=chosen.year)
    say(
        f"{done.catalogue}: {done.num_tiles} tiles as {done.num_optical} Sentinel-2 "
        f"and {done.num_radar} Sentinel-1 scenes"
    )


if __name__ == "__main__":
    try:
        main()
    except TesseraError as error:
        sys.exit(f"publish_catalogue: {type(error).__name__}: {error}")
