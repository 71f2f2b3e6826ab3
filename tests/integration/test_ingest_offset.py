"""One dark surface on both sides of 25 January 2022: whatever items say, no step of 1000."""

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogues import (
    CDSE,
    EARTH_SEARCH,
    PLANETARY_COMPUTER,
    SIZE,
    optical,
    read,
    surface,
)

pytestmark = pytest.mark.slow

BEFORE, AFTER = date(2022, 1, 5), date(2022, 2, 4)
SAYS_APPLIED, SAYS_NOT = ({"earthsearch:boa_offset_applied": flag} for flag in (True, False))
OLD_SAYS_NOT = {"sentinel:boa_offset_applied": False}


@dataclass(frozen=True)
class Variant:
    """What the items of a date say, and whether their pixels hold the added 1000."""

    is_added: bool
    keys: dict[str, str] = field(default_factory=lambda: EARTH_SEARCH)
    raster_offset: float | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    collection: str = "sentinel-2-l2a"
    baseline: str | None = "04.00"


VARIANTS = {
    "planetary computer": Variant(True, PLANETARY_COMPUTER),
    "planetary computer, already removed": Variant(False, PLANETARY_COMPUTER),
    "cdse": Variant(True, CDSE, raster_offset=-0.1),
    "collection 1": Variant(
        True, raster_offset=-0.1, collection="sentinel-2-c1-l2a", baseline="05.00"
    ),
    "earth search, flag right": Variant(False, raster_offset=0.0, properties=SAYS_APPLIED),
    "earth search, flag says added and it is not": Variant(
        False, raster_offset=-0.1, properties=SAYS_NOT
    ),
    "earth search, flag says removed and it is not": Variant(
        True, raster_offset=0.0, properties=SAYS_APPLIED
    ),
    "earth search, old flag says added and it is not": Variant(
        False, raster_offset=-0.1, properties=OLD_SAYS_NOT
    ),
    "raster offset only, added": Variant(True, raster_offset=-0.1, baseline=None),
    "raster offset only, not added": Variant(False, raster_offset=-0.1, baseline=None),
    "no word about it, added": Variant(True, baseline=None),
    "no word about it, not added": Variant(False, baseline=None),
}


def write(out: Path, day: date, values: np.ndarray, variant: Variant, **more: Any) -> Any:
    offset = variant.raster_offset
    scaled = {} if offset is None else dict.fromkeys(variant.keys.values(), (1e-4, offset))
    return optical(
        out,
        day,
        values,
        added=1000 if variant.is_added else 0,
        keys=variant.keys,
        collection=variant.collection,
        baseline=variant.baseline,
        properties=variant.properties,
        scale_offset=scaled,
        **more,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_same_surface_shows_no_step(name: str, tmp_path: Path) -> None:
    variant, out = VARIANTS[name], tmp_path / "catalogue"
    old = Variant(False, variant.keys, collection=variant.collection, baseline="03.01")
    items = [write(out, BEFORE, surface(), old), write(out, AFTER, surface(), variant)]
    items.append(write(out, date(2022, 3, 6), surface(), variant))
    found = read(tmp_path, *items)
    assert found.days(2022) == [BEFORE, AFTER, date(2022, 3, 6)]
    for image in found["bands"]:
        assert np.array_equal(image, surface())
    assert found["masks"].all()


@pytest.mark.parametrize("classes", [4, 5], ids=["dark plants", "no evidence"])
def test_reprocessed_scene_of_before_has_the_offset_of_its_baseline(
    classes: int, tmp_path: Path
) -> None:
    variant = Variant(True, PLANETARY_COMPUTER, baseline="05.00")
    day = date(2019, 6, 1)
    item = write(tmp_path / "catalogue", day, surface(), variant, classes=classes)
    assert np.array_equal(read(tmp_path, item, years=2019)["bands"][0], surface())


def test_bright_old_scene_is_left_alone(tmp_path: Path) -> None:
    bright = surface() + np.uint16(1500)
    item = write(tmp_path / "catalogue", BEFORE, bright, Variant(False, baseline="03.01"))
    assert np.array_equal(read(tmp_path, item)["bands"][0], bright)


@pytest.mark.parametrize("haze", [900, 1500, 4800], ids=["thin haze", "haze", "missed cloud"])
def test_haze_is_not_taken_for_the_offset(haze: int, tmp_path: Path) -> None:
    """Levels of real dates without offset whose haze or snow the classes call clear."""
    hazy = surface()
    hazy[..., :3] += np.uint16(haze)
    hazy[..., 3:] += np.uint16(haze // 4)
    item = write(tmp_path / "catalogue", AFTER, hazy, VARIANTS["earth search, flag right"])
    assert np.array_equal(read(tmp_path, item)["bands"][0], hazy)


@pytest.mark.parametrize("classes", [5, 9], ids=["bare ground", "cloud"])
@pytest.mark.parametrize("name", ["planetary computer", "earth search, flag right"])
def test_metadata_stand_where_pixels_are_no_evidence(
    name: str, classes: int, tmp_path: Path
) -> None:
    item = write(tmp_path / "catalogue", AFTER, surface(), VARIANTS[name], classes=classes)
    found = read(tmp_path, item)
    assert np.array_equal(found["bands"][0], surface())
    assert bool(found["masks"].all()) == (classes == 5)


def test_originals_among_removed_ones_are_told_by_their_bucket(tmp_path: Path) -> None:
    out = tmp_path / "catalogue"
    items = [
        write(out, AFTER, surface(), VARIANTS["no word about it, not added"], classes=5),
        write(out, date(2022, 3, 6), surface(), VARIANTS["no word about it, added"], classes=5),
    ]
    # The bucket is a part of the address, and absolute addresses are kept as they are.
    for item, bucket in zip(items, ("sentinel-cogs", "sentinel-s2-l2a"), strict=True):
        folder = out / bucket
        folder.mkdir()
        for asset in item.assets.values():
            moved = Path(asset.href).rename(folder / f"{item.id}_{Path(asset.href).name}")
            asset.href = str(moved)
    for image in read(tmp_path, *items)["bands"]:
        assert np.array_equal(image, surface())


def test_subtraction_stops_at_one_and_leaves_no_data(tmp_path: Path) -> None:
    values = surface()
    values[0, :, 9] = 0  # a band without data
    item = write(tmp_path / "catalogue", AFTER, values, VARIANTS["planetary computer"])
    import rasterio

    with rasterio.open(item.assets["B12"].href, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        stored = raster.read(1)
        stored[1] = np.arange(980, 980 + SIZE)
        raster.write(stored, 1)
    swir = read(tmp_path, item)["bands"][0, ..., 9]
    assert not swir[0].any()
    assert np.array_equal(swir[1], np.maximum(1, np.arange(-20, SIZE - 20)))
    assert np.array_equal(swir[2:], surface()[2:, :, 9])
