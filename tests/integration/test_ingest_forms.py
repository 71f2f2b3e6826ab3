"""Items of all forms, and the ways to them: pages of an API, signatures, STAC 1.0 and 1.1."""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import planetary_computer
import pystac
import pytest
from rasterio.transform import Affine, from_origin

from tests.catalogues import (
    CRS,
    DAY,
    EARTH_SEARCH,
    GRID,
    PLANETARY_COMPUTER,
    POWER,
    SIZE,
    catalogue_of,
    ingest,
    optical,
    outline,
    radar,
    rewrite,
    surface,
    tiles,
)
from tests.range_server import Fault, RangeServer, serve
from tests.stac_api import serve_api
from tests.unit.test_scenes import files

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("form", ["no bands", "1.1"])
def test_items_without_raster_bands_or_with_those_of_stac_1_1(form: str, tmp_path: Path) -> None:
    item = optical(tmp_path / "catalogue", DAY, surface())
    catalogue_of(tmp_path / "catalogue", item)

    def change(assets: dict[str, Any]) -> dict[str, Any]:
        for asset in assets.values():
            bands, names = asset.pop("raster:bands"), asset.pop("eo:bands")
            if form == "1.1":
                asset["bands"] = [{"name": names[0]["name"], "eo:common_name": "red", **bands[0]}]
        return assets

    rewrite(tmp_path / "catalogue" / "sentinel-2-l2a" / item.id / f"{item.id}.json", assets=change)
    catalogue = tmp_path / "catalogue" / "catalog.json"
    ingest(catalogue, tmp_path / "out", outline(tmp_path / "w.json"))
    (found,) = tiles(tmp_path / "out")
    assert np.array_equal(found["bands"][0], surface())
    assert found["bands"].dtype == np.uint16


def test_amplitude_collection_is_refused_with_a_reason(tmp_path: Path) -> None:
    item = radar(tmp_path / "catalogue", DAY, "ascending", POWER)
    item.collection_id = "sentinel-1-grd"
    catalogue = catalogue_of(tmp_path / "catalogue", item)
    done = ingest(catalogue, tmp_path / "out", outline(tmp_path / "w.json"), code=1)
    assert "sentinel-1-grd" in done.all
    assert not tiles(tmp_path / "out")


def online(items: list[pystac.Item], server: RangeServer) -> list[pystac.Item]:
    """Return items whose assets lie on a web server."""
    for item in items:
        for asset in item.assets.values():
            place = Path(asset.href).relative_to(server.root).as_posix()
            asset.href = f"{server.url}/{place}"
    return items


def write_year(out: Path, keys: Mapping[str, str]) -> list[pystac.Item]:
    """Write seven dates on the ground, one elsewhere, and one of the next year."""
    days = [DAY + timedelta(7 * number) for number in range(7)]
    elsewhere = (CRS, from_origin(300_000, 5_000_000, 10, 10))
    return [
        *(optical(out, day, surface(), keys=keys) for day in days),
        optical(out, DAY, surface(), keys=keys, square="31TCL", place=elsewhere),
        optical(out, date(2023, 1, 1), surface(), keys=keys),
    ]


@pytest.mark.parametrize(
    ("provider", "keys", "limit"),
    [("planetary-computer", PLANETARY_COMPUTER, 250), ("earth-search", EARTH_SEARCH, 100)],
)
def test_online_search_asks_page_after_page(
    provider: str, keys: Mapping[str, str], limit: int, tmp_path: Path
) -> None:
    out = tmp_path / "scenes"
    items = write_year(out, keys)
    with serve(out) as server, serve_api(online(items, server), page=3, max_limit=limit) as api:
        api.failures.append(503)
        more = ("--provider", provider, "--catalog", api.url)
        ingest("", tmp_path / "out", outline(tmp_path / "w.json"), *more)
    (found,) = tiles(tmp_path / "out")
    assert found.days(2022) == [DAY + timedelta(7 * number) for number in range(7)]
    assert {search["limit"] for search in api.searches} == {limit}
    assert len(api.searches) >= 4, "one that failed, and three pages"
    assert found.record["provider"] == provider


def test_addresses_are_signed_for_each_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[str] = []

    def sign(href: str) -> str:
        signed.append(href)
        return f"{href}?sig=SECRET{len(signed)}"

    monkeypatch.setattr(planetary_computer, "sign", sign)
    out = tmp_path / "scenes"
    items = write_year(out, PLANETARY_COMPUTER)[:2]
    with serve(out) as server, serve_api(online(items, server), page=3) as api:
        server.faults.append(Fault("B08.tif", 403, times=2))  # as if the signature had expired
        more = ("--provider", "planetary-computer", "--catalog", api.url)
        done = ingest("", tmp_path / "out", outline(tmp_path / "w.json"), *more)
        rasters = [answer for answer in server.answers if answer.path.endswith(".tif")]
        assert all(answer.query.startswith("sig=SECRET") for answer in rasters)
        assert len({answer.query for answer in rasters}) == len(signed) > 2 * 11
        assert sorted(set(signed)) == sorted(a.href for item in items for a in item.assets.values())
    assert "SECRET" not in done.all
    for name, content in files(tmp_path / "out").items():
        assert b"SECRET" not in content, name


def test_only_the_window_is_fetched(tmp_path: Path) -> None:
    out, window = tmp_path / "catalogue", outline(tmp_path / "w.json")
    large = surface(0, 1024)
    place = (CRS, GRID @ Affine.translation(-600, -500))
    with serve(out) as server:
        ingest(
            f"{server.url}/{catalogue_of(out, optical(out, DAY, large, place=place)).name}",
            tmp_path / "out",
            window,
        )
        size = sum(path.stat().st_size for path in out.rglob("*.tif"))
        assert all(
            answer.is_range
            for answer in server.answers
            if answer.num_bytes and ".tif" in answer.path
        )
        assert server.sent(".tif") < size / 4
    (found,) = tiles(tmp_path / "out")
    assert np.array_equal(found["bands"][0], large[500 : 500 + SIZE, 600 : 600 + SIZE])
