"""An archive, published and ingested again over the same windows, is the archive, bit for bit."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from rasterio.transform import Affine

from tasks.georeference import read_georeference
from tasks.publish_catalogue import publish_catalogue
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.stac.optical_scenes import PROFILES, Form
from tasks.tiles import RADAR, Tile, TileRef, find_tiles, read_tile
from tests.catalogues import Read, ingest, outline, tiles
from tests.range_server import serve
from tests.unit.test_scenes import files

pytestmark = pytest.mark.slow

SIDE = 8


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiles of the year in which baseline 04.00 came, with a few of its dates."""
    root = tmp_path_factory.mktemp("simulated") / "archive"
    write_archive(SimulatorConfig(seed=3, num_tiles=2, tile_size_px=SIDE, years=(2022,)), root)
    return thinned(root, 40)


def thinned(archive: Path, every: int) -> Path:
    """Leave only some dates, since each is a dozen files to flush; of radar, twice as many."""
    for path in archive.rglob("*.npy"):
        np.save(path, np.load(path)[:: every // 2 if path.name.startswith("sar_") else every])
    return archive


def window_of(ref: TileRef, path: Path) -> Path:
    place = read_georeference(ref.folder / "roi.tiff")
    shape = np.load(ref.folder / "masks.npy", mmap_mode="r").shape[1:]
    return outline(path, grid=Affine(*place["transform"]), shape=shape, crs=place["crs"])


def assert_same(tile: Tile, read: Read) -> None:
    """Compare every array; dates on which the tile saw nothing are no scenes."""
    seen = np.asarray(tile.bands).any(axis=(1, 2, 3))
    assert seen.any()
    assert np.array_equal(read["doys"], tile.doys[seen])
    assert np.array_equal(read["bands"], tile.bands[seen])
    assert np.array_equal(read["masks"], tile.valid[seen])
    for orbit in RADAR:
        if orbit not in tile.radar:
            assert not read.has(orbit) or not len(read[orbit])
            continue
        codes, doys = tile.radar[orbit]
        seen = np.asarray(codes).any(axis=(1, 2, 3))
        assert np.array_equal(read[f"{orbit}_doy"], doys[seen])
        assert np.array_equal(read[orbit], codes[seen])


@pytest.mark.parametrize("profile", PROFILES)
def test_simulated_archive_comes_back(profile: str, archive: Path, tmp_path: Path) -> None:
    published = publish_catalogue(archive, tmp_path / "catalogue", Form(PROFILES[profile]))
    for number, ref in enumerate(find_tiles(archive)):
        out = tmp_path / str(number)
        ingest(published.catalogue, out, window_of(ref, tmp_path / "w.json"))
        (read,) = tiles(out)
        assert_same(read_tile(ref), read)


def test_scenes_that_overlap_come_back_as_the_whole(archive: Path, tmp_path: Path) -> None:
    form = Form(PROFILES["planetary-computer"], is_split=True)
    published = publish_catalogue(archive, tmp_path / "catalogue", form)
    ref = find_tiles(archive)[0]
    ingest(published.catalogue, tmp_path / "out", window_of(ref, tmp_path / "w.json"))
    (read,) = tiles(tmp_path / "out")
    assert_same(read_tile(ref), read)


def test_real_tile_comes_back(shared_data: Path, tmp_path: Path) -> None:
    real = thinned(copytree(shared_data / "data" / "be2018", tmp_path / "real"), 12)
    form = Form(PROFILES["earth-search"])
    published = publish_catalogue(real, tmp_path / "catalogue", form, year=2018)
    (ref,) = find_tiles(real)
    window = window_of(ref, tmp_path / "w.json")
    ingest(published.catalogue, tmp_path / "out", window, "--years", 2018)
    (read,) = tiles(tmp_path / "out")
    assert_same(read_tile(ref), read)
    assert read_tile(find_tiles(tmp_path / "out")[0]).shape == (64, 64)


def test_address_gives_the_bytes_that_the_disk_gives(archive: Path, tmp_path: Path) -> None:
    published = publish_catalogue(archive, tmp_path / "catalogue", Form(PROFILES["cdse"]))
    window = window_of(find_tiles(archive)[0], tmp_path / "w.json")
    ingest(published.catalogue, tmp_path / "disk", window)
    with serve(tmp_path / "catalogue") as server:
        ingest(f"{server.url}/catalog.json", tmp_path / "net", window)
        assert server.sent() > 0
    assert arrays(tmp_path / "net") == arrays(tmp_path / "disk")


def arrays(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(out).items() if name.endswith(".npy")}
