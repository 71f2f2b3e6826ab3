"""Land that the simulator does not know (sand, salt, sea, coast, snow) is sound, and passes.

Each tile is a spectrum or two with texture, seasons, clouds and speckle, written down by hand. The
same land with a fault that it can show must still be stopped.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from models.bands import S2_BANDS
from tasks.ingest import Catalogue, make_catalogue
from tasks.params import read_params
from tasks.validate import judge_archive

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
Found = dict[str, set[tuple[str, str, str]]]

LIMITS = read_params(Path(__file__).parents[2] / "params.yaml").validate_
SIDE, DATES, PASSES = 48, 40, 20
SHARP = 4  # the first four bands are measured at 10 m
HALF = np.arange(SIDE) < SIDE // 2
CORNER = np.outer(np.arange(SIDE) < 5, np.arange(SIDE) < 5)[..., None]
EARLY = np.arange(DATES) < DATES // 2

# Reflectance x 10,000 in the order of S2_BANDS, and VV and VH in dB.
SPECTRA = {
    "sand": (2900, 1511, 2150, 3500, 3600, 3150, 3300, 3450, 4300, 3900),
    "stones": (1750, 1147, 1450, 2050, 2150, 1850, 1950, 2050, 2500, 2250),
    "salt": (5600, 5000, 5400, 5700, 5750, 5600, 5650, 5700, 3100, 2300),
    "sea": (150, 400, 250, 60, 50, 120, 70, 60, 4, 2),
    "meadow": (500, 400, 700, 3300, 3500, 1000, 2600, 3200, 2000, 1100),
    "snow": (8200, 8400, 8300, 7600, 7400, 8000, 7800, 7600, 900, 700),
}
RADAR = {
    "sand": (-17, -24),
    "stones": (-13, -21),
    "salt": (-16, -23),
    "sea": (-19, -30),
    "meadow": (-10, -16),
    "snow": (-12, -19),
}


def texture(rng: np.random.Generator, num: int, step: int) -> Array:
    """Smooth fields of about 1 +- 0.1 with detail at ``step`` pixels; (num, SIDE, SIDE)."""
    coarse = rng.normal(0, 0.08, (num, SIDE // 8, SIDE // 8))
    fine = rng.normal(0, 0.05, (num, SIDE // step, SIDE // step))
    field: Array = 1 + np.kron(coarse, np.ones((8, 8))) + np.kron(fine, np.ones((step, step)))
    return field


def noise(rng: np.random.Generator) -> Array:
    """One field a band: four with detail at 10 m, six at 20 m; (10, SIDE, SIDE)."""
    return np.concatenate([texture(rng, SHARP, 1), texture(rng, 10 - SHARP, 2)])


def clouds(rng: np.random.Generator) -> Array:
    """Discs of cloud on most dates, three dates wholly clouded; bool (DATES, SIDE, SIDE)."""
    row, column = np.mgrid[:SIDE, :SIDE]
    centre, radius = rng.uniform(0, SIDE, (DATES, 2, 1, 1)), rng.uniform(4, 20, (DATES, 1, 1))
    cloud: Array = (row - centre[:, 0]) ** 2 + (column - centre[:, 1]) ** 2 < radius**2
    cloud[::3] = False
    cloud[[4, 17, 31]] = True
    return cloud


def look_up(table: Mapping[str, tuple[int, ...]], kinds: Array) -> Array:
    names, found = np.unique(kinds, return_inverse=True)
    rows = np.array([table[name] for name in names.tolist()], np.float64)
    return rows[found.reshape(kinds.shape)]


def write_land(folder: Path, kinds: Callable[[int], Array], *, clouded: bool = True) -> None:
    """Write a tile.

    Args:
        folder: To be made.
        kinds: For a day of year, the kind of land of each pixel: text (SIDE, SIDE).
        clouded: Whether there are clouds, marked as such.
    """
    rng = np.random.default_rng(crc32(folder.name.encode()))
    days = np.linspace(3, 360, DATES).astype(np.int64)
    ground = noise(rng)
    cloud = clouds(rng) & clouded
    images = []
    for day, covered in zip(days, cloud, strict=True):
        levels = look_up(SPECTRA, kinds(int(day)))
        image = levels * np.moveaxis(ground, 0, -1) * rng.normal(1, 0.03)
        image += 80 * (np.moveaxis(noise(rng), 0, -1) - 1)
        image[covered] = rng.normal(6000, 300, (covered.sum(), 1)) + rng.normal(0, 50, 10)
        images.append(image.round().clip(0, 65535))
    folder.mkdir(parents=True)
    np.save(folder / "bands.npy", np.array(images, np.uint16))
    np.save(folder / "masks.npy", (~cloud).astype(np.uint8))
    np.save(folder / "doys.npy", days)
    for orbit in ("sar_ascending", "sar_descending"):
        decibels = look_up(RADAR, kinds(200))
        # 20 log10 of amplitude and a speckle of 2 dB, stored as (dB + 50) x 200.
        noisy = 2 * (decibels + rng.normal(0, 2, (PASSES, SIDE, SIDE, 2)))
        codes = ((noisy + 50) * 200).round().clip(0, 32767)
        np.save(folder / f"{orbit}.npy", codes.astype(np.int16))
        np.save(folder / f"{orbit}_doy.npy", np.linspace(5, 350, PASSES).astype(np.int64))


def everywhere(kind: str) -> Callable[[int], Array]:
    return lambda _day: np.full((SIDE, SIDE), kind)


def coast(_day: int) -> Array:
    return np.broadcast_to(np.where(HALF, "sea", "meadow"), (SIDE, SIDE))


def oasis(_day: int) -> Array:
    land = np.full((SIDE, SIDE), "sand", "U6")
    land[20:24, 30:34] = "meadow"
    return land


def winter(day: int) -> Array:
    return np.full((SIDE, SIDE), "snow" if day < 120 or day > 300 else "meadow")


LANDS = {
    **{kind: everywhere(kind) for kind in ("sand", "stones", "salt", "sea", "snow")},
    "coast": coast,
    "oasis": oasis,
    "winter": winter,
}


FAULTS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "unmasked": ("masks", np.ones_like),
    "offset": ("bands", lambda dn: dn + np.uint16(1000)),
    "offset_half": ("bands", lambda dn: dn + (np.uint16(1000) * EARLY)[:, None, None, None]),
    "lost": ("bands", lambda dn: dn * (np.array(S2_BANDS) != "B06")),
    "grazed": ("sar_ascending", lambda codes: codes * CORNER),
}
FAULTY = {
    "unmasked": ("stones", "sand", "sea", "coast"),
    "offset": ("sea", "coast", "oasis", "winter"),
    "offset_half": ("sand", "stones", "sea", "coast"),
    "lost": ("salt", "sand"),
    "grazed": ("stones",),
}
CLOUDLESS = ("sand", "salt", "sea")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What is found in each tile: sensor, band, expectation."""
    archive = tmp_path_factory.mktemp("lands")
    for name, kinds in LANDS.items():
        write_land(archive / name, kinds)
    for name in CLOUDLESS:
        write_land(archive / f"{name}_cloudless", LANDS[name], clouded=False)
    for fault, (file, change) in FAULTS.items():
        for name in FAULTY[fault]:
            folder = archive / f"{name}_{fault}"
            write_land(folder, LANDS[name])
            array = np.load(folder / f"{file}.npy")
            np.save(folder / f"{file}.npy", change(array).astype(array.dtype))
    verdict, tables = judge_archive(Catalogue(archive, tuple(make_catalogue(archive))), LIMITS)
    places: Found = {key: set() for key in tables["tiles"]["tile"]}
    for failure in verdict.failures:
        places[failure.tile].add((failure.sensor, failure.band, failure.expectation))
    return places


@pytest.mark.parametrize("land", LANDS)
def test_clean_land_passes(land: str, found: Found) -> None:
    assert found[land] == set()


@pytest.mark.parametrize("land", CLOUDLESS)
def test_year_without_clouds_may_be_all_clear(land: str, found: Found) -> None:
    assert found[f"{land}_cloudless"] == set()


@pytest.mark.parametrize("land", FAULTY["unmasked"])
def test_clouds_marked_clear_are_found_over_dark_and_bright_ground(land: str, found: Found) -> None:
    assert {("s2", "", "clouds_masked"), ("s2", "", "some_masked")} <= found[f"{land}_unmasked"]


@pytest.mark.parametrize("land", FAULTY["offset"])
def test_offset_left_in_is_found_where_something_has_to_be_dark(land: str, found: Found) -> None:
    assert ("s2", "", "dark_targets") in found[f"{land}_offset"]


@pytest.mark.parametrize("land", FAULTY["offset_half"])
def test_offset_left_in_on_half_of_the_dates_is_found(land: str, found: Found) -> None:
    assert ("s2", "", "dark_dates") in found[f"{land}_offset_half"]


@pytest.mark.parametrize("land", FAULTY["lost"])
def test_lost_band_is_found_over_bright_ground(land: str, found: Found) -> None:
    assert ("s2", "B06", "no_data_masked") in found[f"{land}_lost"]


def test_orbit_that_hardly_touches_a_tile_passes_beside_the_other(found: Found) -> None:
    assert found["stones_grazed"] == set()
