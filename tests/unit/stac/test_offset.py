"""The offset of 1000: what the metadata say, what the pixels say, and who wins."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest

from models.bands import S2_BANDS
from tasks.stac.items import Scene
from tasks.stac.offset import Darkness, darkness, held_against, said_by_metadata, without_offset
from tasks.stac.providers import (
    CDSE,
    EARTH_SEARCH,
    EARTH_SEARCH_C1,
    PLANETARY_COMPUTER,
    OpticalForm,
)

COGS = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/31/U/FS/x/B04.tif"
ORIGINALS = "s3://sentinel-s2-l2a/tiles/31/U/FS/2022/2/3/0/R10m/B04.jp2"
ELSEWHERE = "./B04.tif"


def scene(
    form: OpticalForm,
    *,
    baseline: str | None = "05.09",
    href: str = ELSEWHERE,
    flag: bool | None = None,
    declared: float | None = None,
    day: date = date(2022, 6, 1),
) -> Scene:
    properties: dict[str, Any] = {}
    if baseline is not None:
        properties["s2:processing_baseline"] = baseline
    if flag is not None:
        properties["earthsearch:boa_offset_applied"] = flag
    return Scene(
        "S2A_31UFS",
        form.collections[0],
        datetime(day.year, day.month, day.day, tzinfo=UTC),
        None,
        None,
        properties,
        "/catalogue/item.json",
        dict.fromkeys(form.keys.values(), href),
        {} if declared is None else dict.fromkeys(form.keys.values(), declared),
        "",
    )


@pytest.mark.parametrize(
    ("given", "is_present", "decided_by"),
    [
        (scene(PLANETARY_COMPUTER), True, "profile"),
        (scene(PLANETARY_COMPUTER, baseline="03.01"), False, "baseline"),
        (scene(PLANETARY_COMPUTER, baseline="05.00", day=date(2019, 6, 1)), True, "profile"),
        (scene(PLANETARY_COMPUTER, baseline=None), True, "profile"),
        (scene(PLANETARY_COMPUTER, baseline=None, day=date(2021, 6, 1)), False, "date"),
        (scene(CDSE, declared=-0.1), True, "declared"),
        (scene(EARTH_SEARCH_C1, declared=-0.1), True, "declared"),
        (scene(EARTH_SEARCH), False, "profile"),
        (scene(EARTH_SEARCH, href=COGS, flag=False, declared=-0.1), False, "bucket"),
        (scene(EARTH_SEARCH, href=ORIGINALS, flag=True), True, "bucket"),
        (scene(EARTH_SEARCH, flag=True, declared=-0.1), False, "flag"),
        (scene(EARTH_SEARCH, flag=False), True, "flag"),
        (scene(EARTH_SEARCH, baseline="02.14", href=ORIGINALS), False, "baseline"),
    ],
)
def test_first_evidence_that_speaks_decides(
    given: Scene, is_present: bool, decided_by: str
) -> None:
    forms = (PLANETARY_COMPUTER, CDSE, EARTH_SEARCH, EARTH_SEARCH_C1)
    form = next(f for f in forms if set(f.keys.values()) <= given.hrefs.keys()
                and given.collection in f.collections)  # fmt: skip
    said = said_by_metadata(given, form)
    assert (said.is_present, said.decided_by) == (is_present, decided_by)


@pytest.mark.parametrize(
    ("form", "levels", "is_present", "contradicts"),
    [
        (PLANETARY_COMPUTER, None, True, False),
        (PLANETARY_COMPUTER, (1000, 1000, 200), True, False),
        (PLANETARY_COMPUTER, (950, 950, 200), True, False),
        (PLANETARY_COMPUTER, (899, 899, 200), False, True),
        (EARTH_SEARCH, None, False, False),
        (EARTH_SEARCH, (899, 899, 200), False, False),
        (EARTH_SEARCH, (950, 950, 500), False, False),
        (EARTH_SEARCH, (1000, 1000, 500), True, True),
        (EARTH_SEARCH, (1500, 1000, 500), True, True),
        (EARTH_SEARCH, (1000, 1000, 499), False, False),
        (EARTH_SEARCH, (1200, 999, 500), False, False),
        (EARTH_SEARCH, (1501, 1501, 500), False, False),
    ],
)
def test_conclusive_pixels_win(
    form: OpticalForm, levels: tuple[int, int, int] | None, is_present: bool, contradicts: bool
) -> None:
    dark = None if levels is None else Darkness(*levels)
    decision = held_against(said_by_metadata(scene(form), form), dark)
    assert (decision.is_present, decision.contradicts) == (is_present, contradicts)
    assert decision.dark_level == (None if levels is None else levels[0])


def test_baseline_before_the_offset_is_never_overruled() -> None:
    old = said_by_metadata(scene(EARTH_SEARCH, baseline="03.01"), EARTH_SEARCH)
    assert not held_against(old, Darkness(1200, 1200, 10_000)).is_present


def made_of(lows: dict[str, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        band: random.integers(low, low + 1000, (50, 50)).astype(np.uint16)
        for band, low in lows.items()
    }


@pytest.mark.parametrize("added", [0, 1000])
def test_darkness_is_that_of_the_darkest_band_over_dark_classes(added: int) -> None:
    lows = dict.fromkeys(S2_BANDS, 400 + added) | {"B04": 300 + added, "B12": 100 + added}
    bands, dark = made_of(lows), np.zeros((50, 50), bool)
    dark[:, :30] = True
    found = darkness(bands, dark)
    assert found is not None
    levels = {name: np.percentile(bands[name][:, :30], 1) for name in ("B04", "B12")}
    assert (found.visible, found.num_pixels) == (levels["B04"], 1500)
    assert found.lowest == levels["B12" if added else "B04"]


def test_few_pixels_are_no_evidence() -> None:
    dark = np.zeros((50, 50), bool)
    dark.flat[:199] = True
    assert darkness(made_of(dict.fromkeys(S2_BANDS, 1500)), dark) is None


def test_offset_comes_off_every_number_and_stops_at_one() -> None:
    numbers = np.array([0, 1, 999, 1000, 1001, 1002, 2000, 65535], np.uint16)
    assert without_offset(numbers).tolist() == [0, 1, 1, 1, 1, 2, 1000, 64535]
    assert without_offset(numbers).dtype == np.uint16
    assert numbers[3] == 1000, "the input is left alone"


@pytest.mark.parametrize(
    ("properties", "baseline"),
    [
        ({"s2:processing_baseline": "05.09"}, 5.09),
        ({"s2:processing_baseline": 4.0}, 4.0),
        ({"processing:version": "05.11"}, 5.11),
        ({"s2:processing_baseline": None, "processing:version": "02.14"}, 2.14),
        ({"s2:processing_baseline": "unknown"}, None),
        ({}, None),
    ],
)
def test_baseline_is_read_as_any_archive_writes_it(
    properties: dict[str, Any], baseline: float | None
) -> None:
    assert replace(scene(CDSE), properties=properties).baseline == baseline
