"""Maps of observation counts, against the strict reader and another decoder of pictures."""

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.tiles import TileRef, dpixels_of, find_tiles, read_tile
from tasks.validation.map_page import render_maps
from tasks.validation.observations import ObservationMaps, count_observations
from tasks.validation.survey import survey_tile


@pytest.fixture(scope="module")
def tile(tmp_path_factory: pytest.TempPathFactory) -> TileRef:
    root = tmp_path_factory.mktemp("archive") / "a"
    write_archive(SimulatorConfig(seed=3, num_tiles=1, tile_size_px=24, years=(2022,)), root)
    return find_tiles(root)[0]


@pytest.fixture
def copied(tile: TileRef, tmp_path: Path) -> TileRef:
    return TileRef(tile.key, shutil.copytree(tile.folder, tmp_path / "tile"))


def pictures(page: str) -> list[np.ndarray]:
    """Decode every picture of a page: (H, W, 3) colours."""
    found = re.findall(r"data:image/png;base64,([^\"]+)", page)
    return [imread(io.BytesIO(base64.b64decode(text)))[..., :3] for text in found]


def test_counts_are_the_observations_that_the_packer_takes(tile: TileRef) -> None:
    counts = count_observations(survey_tile(tile))
    assert counts is not None
    assert counts.dtype == np.uint16
    assert counts.shape == (24, 24, 3)
    dpixels = dpixels_of(read_tile(tile), np.arange(24 * 24), 0)
    for layer, series in enumerate((dpixels.s2, dpixels.s1_asc, dpixels.s1_desc)):
        assert (counts[..., layer].ravel() == series.counts).all()


def test_an_absent_orbit_counts_none_and_an_unreadable_one_gives_no_map(copied: TileRef) -> None:
    for path in copied.folder.glob("sar_ascending*"):
        path.unlink()
    counts = count_observations(survey_tile(copied))
    assert counts is not None
    assert counts[..., 1].max() == 0 < counts[..., 2].max()
    (copied.folder / "sar_descending.npy").write_bytes(b"no array")
    assert count_observations(survey_tile(copied)) is None


def test_shares_of_thin_pixels_are_those_of_the_region(copied: TileRef, tmp_path: Path) -> None:
    flags = np.load(copied.folder / "masks.npy")
    flags[:] = 0
    flags[:7, :, :6] = 1
    flags[:3, :, 6:12] = 1
    np.save(copied.folder / "masks.npy", flags)
    maps = ObservationMaps(tmp_path / "maps", min_s2=5, min_s1=1000)
    row = maps.add(survey_tile(copied))
    assert row == {"thin_s2_share": 0.75, "thin_s1_share": 1.0}
    saved = np.load(maps.path(copied.key))
    assert np.unique(saved[..., 0], return_counts=True)[1].tolist() == [288, 144, 144]


def test_a_stripe_and_a_swath_edge_are_seen_and_nothing_is_white(tmp_path: Path) -> None:
    counts = np.full((600, 400, 3), 40, np.uint16)
    counts[:, 90:96] -= 1  # one observation less, in a stripe of six pixels
    counts[300:, :, 1] = 0
    maps = ObservationMaps(tmp_path, 4, 4)
    np.save(maps.path("t"), counts)
    tiles = pd.DataFrame([{"tile": "t", "thin_s2_share": 0.0, "thin_s1_share": 0.1}])
    optical, ascending, _ = pictures(render_maps(maps, tiles))
    assert optical.shape == (200, 134, 3)
    stripe = np.flatnonzero((optical != optical[:, :1]).any(axis=(0, 2)))
    assert stripe.tolist() == [30, 31]
    white = (ascending == 1).all(axis=-1)
    assert white[100:].all()
    assert not white[:100].any()


def test_colours_rise_in_lightness_with_the_count(tmp_path: Path) -> None:
    counts = np.broadcast_to(np.arange(1, 101)[:, None, None], (100, 100, 3)).astype(np.uint16)
    maps = ObservationMaps(tmp_path, 4, 4)
    np.save(maps.path("t"), counts)
    tiles = pd.DataFrame([{"tile": "t", "thin_s2_share": 0.0, "thin_s1_share": 0.1}])
    picture = pictures(render_maps(maps, tiles))[0][:, 0]
    lightness = picture @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).mean() > 0.97


def test_tiles_with_most_thin_pixels_come_first_and_names_are_escaped(tmp_path: Path) -> None:
    maps = ObservationMaps(tmp_path, 4, 4)
    for name in ("a", "b", "<c>"):
        np.save(maps.path(name), np.ones((4, 4, 3), np.uint16))
    rows = [("a", 0.1, 0.0), ("b", 0.0, 0.4), ("<c>", 0.2, 0.2), ("unread", None, None)]
    tiles = pd.DataFrame(rows, columns=["tile", "thin_s2_share", "thin_s1_share"])
    page = render_maps(maps, tiles)
    assert re.findall(r"<b>(.*?)</b>", page) == ["b", "&lt;c&gt;", "a"]
