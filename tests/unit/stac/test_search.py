"""Catalogues: what of them answers, in which order, and what is refused."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.stac.items import resolve, scene_of, without_query, without_secrets
from tasks.stac.search import StaticCatalogue, year_span

YEAR = year_span(2022)
BOX = (4.0, 50.0, 5.0, 51.0)


def item(name: str, **changes: Any) -> dict[str, Any]:
    west, south, east, north = changes.pop("bbox", BOX)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    properties = {"datetime": "2022-06-01T10:00:00Z"} | changes.pop("properties", {})
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, east, north],
        "properties": properties,
        "assets": {"red": {"href": "./red.tif"}},
        "links": [],
    } | changes


def save(folder: Path, *items: dict[str, Any]) -> Path:
    """Write a catalogue of one collection, with a catalogue between it and its items."""
    documents = {
        "catalog.json": {"type": "Catalog", "id": "c", "links": [link("child", "s2/c.json")]},
        "s2/c.json": {
            "type": "Collection",
            "id": "sentinel-2-l2a",
            "links": [link("child", "./2022/catalog.json"), link("root", "../catalog.json")],
        },
        "s2/2022/catalog.json": {
            "type": "Catalog",
            "id": "y",
            "links": [link("item", f"{i}/i.json") for i in range(len(items))]
            + [link("item", "0/i.json"), link("parent", "../c.json"), link("child", "../c.json")],
        },
    } | {f"s2/2022/{i}/i.json": document for i, document in enumerate(items)}
    for name, document in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(document))
    return folder / "catalog.json"


def link(kind: str, href: str) -> dict[str, str]:
    return {"rel": kind, "href": href}


def found(path: Path, box: Any = BOX, collection: str = "sentinel-2-l2a") -> list[str]:
    scenes = StaticCatalogue(str(path)).search([collection], box, *YEAR)
    return [scene.id for scene in scenes]


def test_nested_catalogue_is_walked_once_and_sorted_by_id(tmp_path: Path) -> None:
    path = save(tmp_path, item("b"), item("c"), item("a"))
    assert found(path) == found(tmp_path) == ["a", "b", "c"]


def test_collection_of_an_item_that_does_not_say_is_where_it_lies(tmp_path: Path) -> None:
    silent = item("a")
    del silent["collection"]
    assert found(save(tmp_path, silent)) == ["a"]
    assert not found(tmp_path, collection="sentinel-1-rtc")


@pytest.mark.parametrize(
    ("bbox", "box", "is_found"),
    [
        (BOX, (4.5, 50.5, 4.6, 50.6), True),
        (BOX, (5.1, 50.5, 5.2, 50.6), False),
        (BOX, (4.5, 51.1, 4.6, 51.2), False),
        ((179.5, -17, -179.5, -16), (179.8, -16.5, 179.9, -16.4), True),
        ((179.5, -17, -179.5, -16), (-179.9, -16.5, -179.8, -16.4), True),
        ((179.5, -17, -179.5, -16), (0, -16.5, 0.1, -16.4), False),
        ((-179.97, -17, -179, -16), (179.99, -16.5, -179.96, -16.4), True),
        ((0, -17, 1, -16), (179.99, -16.5, -179.96, -16.4), False),
    ],
)
def test_box_chooses_also_across_the_antimeridian(
    bbox: tuple[float, ...], box: tuple[float, ...], is_found: bool, tmp_path: Path
) -> None:
    assert bool(found(save(tmp_path, item("a", bbox=bbox)), box)) == is_found


def test_footprint_inside_the_bbox_chooses(tmp_path: Path) -> None:
    lower = {"type": "Polygon", "coordinates": [[[4, 50], [5, 50], [4, 51], [4, 50]]]}
    path = save(tmp_path, item("a", geometry=lower))
    assert found(path, (4.1, 50.1, 4.2, 50.2))
    assert not found(path, (4.8, 50.8, 4.9, 50.9))


@pytest.mark.parametrize(
    "footprint",
    [
        "here",
        {"type": "Blot"},
        {"type": "Polygon", "coordinates": [[[4, 50]]]},
        {"type": "Polygon"},
    ],
)
def test_scene_with_a_footprint_that_is_none_is_chosen_by_its_bbox(
    footprint: Any, tmp_path: Path
) -> None:
    path = save(tmp_path, item("a", geometry=footprint))
    assert found(path, (4.5, 50.5, 4.6, 50.6))
    assert not found(path, (5.1, 50.5, 5.2, 50.6))


def test_scene_of_unknown_place_may_lie_anywhere(tmp_path: Path) -> None:
    path = save(tmp_path, item("a") | {"geometry": None, "bbox": None})
    assert found(path, (100, 0, 101, 1))


@pytest.mark.parametrize(
    ("properties", "is_found"),
    [
        ({"datetime": "2022-01-01T00:00:00Z"}, True),
        ({"datetime": "2021-12-31T23:59:59.999Z"}, False),
        ({"datetime": "2022-12-31T23:59:59.999+00:00"}, True),
        ({"datetime": "2023-01-01T00:30:00+01:00"}, True),
        ({"datetime": "2022-06-01T10:00:00"}, True),
        ({"datetime": None, "start_datetime": "2022-06-01T10:00:00Z"}, True),
    ],
)
def test_days_are_counted_in_utc(
    properties: dict[str, Any], is_found: bool, tmp_path: Path
) -> None:
    assert bool(found(save(tmp_path, item("a", properties=properties)))) == is_found


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_file_that_is_no_catalogue_is_named(text: str, tmp_path: Path) -> None:
    path = save(tmp_path, item("a"))
    (tmp_path / "s2/2022/0/i.json").write_text(text)
    with pytest.raises(DataError, match=r"0/i\.json"):
        found(path)


@pytest.mark.parametrize("field", ["id", "properties", "assets"])
def test_item_without_what_an_item_has_is_named(field: str, tmp_path: Path) -> None:
    broken = item("a")
    del broken[field]
    with pytest.raises(DataError, match=field):
        found(save(tmp_path, broken))


HERE, THERE = "/data/catalog/item.json", "https://example.org/catalog/item.json"


@pytest.mark.parametrize(
    ("href", "place", "expected"),
    [
        ("./red.tif", HERE, "/data/catalog/red.tif"),
        ("../red.tif", HERE, "/data/red.tif"),
        ("/else/red.tif", HERE, "/else/red.tif"),
        ("file:///else/red.tif", HERE, "/else/red.tif"),
        ("https://example.org/red.tif", HERE, "https://example.org/red.tif"),
        ("s3://bucket/red.tif", HERE, "s3://bucket/red.tif"),
        ("./red.tif?a=b", THERE, "https://example.org/catalog/red.tif?a=b"),
        ("/red.tif", THERE, "https://example.org/red.tif"),
    ],
)
def test_links_are_resolved(href: str, place: str, expected: str) -> None:
    assert resolve(href, place) == expected


@pytest.mark.parametrize(
    ("href", "place"),
    [
        ("file:///etc/passwd", THERE),
        ("/vsicurl/https://example.org/x", HERE),
        ("/vsizip//data/x.zip", HERE),
        ("vrt://x.tif", HERE),
        ("ftp://example.org/x.tif", THERE),
        ("data:text/plain,hello", HERE),
    ],
)
def test_links_that_must_not_be_followed_are_refused(href: str, place: str) -> None:
    with pytest.raises(DataError, match="expected an address"):
        resolve(href, place)


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    one = item("a")
    other = dict(reversed(one.items()))
    assert scene_of(one, HERE).digest == scene_of(other, HERE).digest
    assert scene_of(item("b"), HERE).digest != scene_of(one, HERE).digest


def test_queries_and_fragments_are_cut_off() -> None:
    assert without_query("https://a.org/x.tif?sig=1&b=2#3") == "https://a.org/x.tif"
    assert without_query("https://me:pass@a.org:80/x.tif") == "https://a.org:80/x.tif"
    assert without_query("/data/what?.tif") == "/data/what?.tif"


def test_messages_tell_no_secret_of_an_address() -> None:
    said = "GET https://me:pass@a.org/x.tif?sig=1 failed: 'https://b.org/y?t=2' too"
    assert without_secrets(said) == "GET https://a.org/x.tif failed: 'https://b.org/y' too"
    assert len(without_secrets("a whole page " * 1000)) < 700


@pytest.mark.parametrize(
    ("given", "baseline"), [("05.09", 5.09), (4, 4.0), ("N0500", None), ("nan", None), (None, None)]
)
def test_baseline_is_a_number_or_unknown(given: Any, baseline: float | None) -> None:
    scene = scene_of(item("a", properties={"s2:processing_baseline": given}), HERE)
    assert scene.baseline == baseline


@pytest.mark.parametrize(
    ("asset", "offset"),
    [
        ({"raster:bands": [{"offset": -0.1, "scale": 1e-4}]}, -0.1),
        ({"bands": [{"raster:offset": -0.1}]}, -0.1),
        ({"raster:offset": -0.1}, -0.1),
        ({"raster:bands": [{"scale": 1e-4}]}, None),
        ({"raster:bands": [{"offset": 0}]}, 0.0),
        ({"raster:bands": [{"offset": float("nan")}]}, None),
        ({}, None),
    ],
)
def test_declared_offset_is_found_in_stac_1_0_and_1_1(
    asset: dict[str, Any], offset: float | None
) -> None:
    scene = scene_of(item("a", assets={"red": {"href": "x.tif"} | asset}), HERE)
    assert scene.offsets.get("red") == offset


@pytest.mark.parametrize(
    ("name", "properties", "square"),
    [
        ("x", {"grid:code": "MGRS-31UFS"}, "31UFS"),
        ("x", {"s2:mgrs_tile": "31UFS"}, "31UFS"),
        ("S2A_31UFS_20220601_0_L2A", {}, "31UFS"),
        ("S2B_MSIL2A_20220601T105619_N0400_R094_T31UFS_20220601T140000", {}, "31UFS"),
        ("something", {}, ""),
    ],
)
def test_square_is_told_by_item_or_id(name: str, properties: dict[str, str], square: str) -> None:
    assert scene_of(item(name, properties=properties), HERE).square == square


def test_a_year_is_its_days() -> None:
    first, last = year_span(2024)
    assert (last - first).days + 1 == 366
    assert (first, last) == (date(2024, 1, 1), date(2024, 12, 31))
    assert np.datetime64(last) + 1 == np.datetime64("2025-01-01")
