"""Which scenes make a date."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tasks.stac.days import OPTICAL, Plan, plan_days
from tasks.stac.items import Scene
from tasks.stac.providers import EARTH_SEARCH, PLANETARY_COMPUTER, PROVIDERS, RTC, OpticalForm

STATIC = PROVIDERS["static"]


def optical(
    name: str, *, square: str = "31UFS", baseline: str = "05.00", form: OpticalForm = EARTH_SEARCH,
    datatake: str = "GS2A_20220105T105421_034141_N03.01", at: str = "2022-01-05T10:56:00",
) -> Scene:  # fmt: skip
    properties = {
        "grid:code": f"MGRS-{square}",
        "s2:processing_baseline": baseline,
        "s2:datatake_id": datatake,
    }
    return scene(name, form.collections[0], dict(form.keys), properties, at)


def radar(name: str, orbit: str | None, *, bands: tuple[str, ...] = ("VV", "VH")) -> Scene:
    keys = {band: RTC.keys[band] for band in bands}
    properties = {} if orbit is None else {RTC.orbit_property: orbit}
    return scene(name, "sentinel-1-rtc", keys, properties, "2022-01-05T17:25:00")


def scene(
    name: str, collection: str, keys: dict[str, str], properties: dict[str, Any], at: str
) -> Scene:
    when = datetime.fromisoformat(at).replace(tzinfo=UTC)
    hrefs = {key: f"./{key}.tif" for key in keys.values()}
    return Scene(name, collection, when, None, None, properties, "/i.json", hrefs, {}, name)


def names(plan: Plan, stream: str = OPTICAL) -> list[list[list[str]]]:
    return [[[s.id for s in copies] for copies in day.captures] for day in plan.days[stream]]


def test_scenes_of_a_day_are_in_the_order_of_ids() -> None:
    scenes = [optical("b", square="31UGS"), optical("a"), optical("c", square="31UFT")]
    assert names(plan_days(scenes, STATIC)) == [[["a"], ["b"], ["c"]]]


def test_copies_of_a_pass_are_one_capture_with_the_highest_baseline_first() -> None:
    datatake = "GS2A_20220105T105421_034141_N0{}"
    scenes = [
        optical("a", baseline="02.14", datatake=datatake.format("2.14")),
        optical("c", baseline="05.00", datatake=datatake.format("5.00")),
        optical("b", baseline="03.01", datatake=datatake.format("3.01")),
    ]
    assert names(plan_days(scenes, STATIC)) == [[["c", "b", "a"]]]


def test_two_passes_over_a_square_are_no_copies() -> None:
    other = "GS2B_20220105T114359_025330_N03.01"
    scenes = [optical("a"), optical("b", datatake=other, baseline="02.14")]
    assert names(plan_days(scenes, STATIC)) == [[["a"], ["b"]]]


def test_copies_without_a_datatake_are_told_by_platform_and_day() -> None:
    scenes = [
        optical("S2A_31UFS_20220105_0_L2A", datatake="", baseline="02.14"),
        optical("S2A_31UFS_20220105_1_L2A", datatake="", at="2022-01-05T10:56:09"),
        optical("S2B_31UFS_20220105_0_L2A", datatake=""),
    ]
    assert names(plan_days(scenes, STATIC)) == [
        [["S2A_31UFS_20220105_1_L2A", "S2A_31UFS_20220105_0_L2A"], ["S2B_31UFS_20220105_0_L2A"]]
    ]


def test_archives_with_other_keys_are_told_apart() -> None:
    for form in (EARTH_SEARCH, PLANETARY_COMPUTER):
        assert STATIC.optical_form(optical("a", form=form)) is form


def test_an_optical_scene_without_classes_stays_to_be_named() -> None:
    one = optical("a")
    bare = replace(one, hrefs={key: href for key, href in one.hrefs.items() if key != "scl"})
    assert names(plan_days([bare], STATIC)) == [[["a"]]]


def test_orbits_of_a_day_are_apart() -> None:
    plan = plan_days([radar("a", "ascending"), radar("b", "DESCENDING")], STATIC)
    assert names(plan, "ascending") == [[["a"]]]
    assert names(plan, "descending") == [[["b"]]]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (radar("x", None), "absent"),
        (radar("x", "sideways"), "sideways"),
        (radar("x", "ascending", bands=("VV",)), "no VH"),
        (scene("x", "sentinel-1-grd", {"VV": "vv"}, {}, "2022-01-05T17:25:00"), "amplitude"),
    ],
)
def test_radar_that_cannot_be_used_is_left_out_with_the_reason(given: Scene, reason: str) -> None:
    plan = plan_days([given], STATIC)
    assert plan.size == 0
    assert reason in plan.left_out["x"]
