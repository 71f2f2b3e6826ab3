"""What breaks on the way: listed, costing the exit code, mended by a rerun; never cleared silently."""

import json
import os
import signal
from collections.abc import Callable
from datetime import date
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from tests.catalogues import (
    SIZE,
    arguments,
    catalogue_of,
    ingest,
    optical,
    outline,
    radar,
    rewrite,
    start,
    surface,
    tiles,
)
from tests.range_server import Fault, RangeServer, serve
from tests.unit.test_scenes import files

pytestmark = pytest.mark.slow

DAYS = [date(2022, 1, day) for day in (5, 10, 15)]
BROKEN = "S2A_31UFS_20220110_0_L2A"


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """GDAL keeps what it has fetched for the life of the process, and a rerun would not ask for it."""
    monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http://127.0.0.1")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three optical dates and a radar date, nothing wrong with them."""
    out = tmp_path_factory.mktemp("sound") / "catalogue"
    items = [optical(out, day, surface(number)) for number, day in enumerate(DAYS)]
    power = np.full((SIZE, SIZE, 2), 0.1, np.float32)
    return catalogue_of(out, *items, radar(out, DAYS[0], "ascending", power))


@pytest.fixture
def catalogue(sound: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(copytree(sound.parent, tmp_path / "catalogue")) / sound.name


@pytest.fixture
def window(tmp_path: Path) -> Path:
    return outline(tmp_path / "w.json")


@pytest.fixture(scope="module")
def whole(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The arrays that an undisturbed run writes."""
    place = tmp_path_factory.mktemp("whole")
    ingest(sound, place / "out", outline(place / "w.json"))
    return arrays(place / "out")


def products(out: Path) -> dict[str, bytes]:
    """Return what a run publishes: hidden folders hold unfinished work."""
    found = files(out).items()
    return {
        name: content
        for name, content in found
        if not any(part.startswith(".") for part in name.split("/"))
    }


def arrays(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in products(out).items() if name.endswith(".npy")}


def item_of(catalogue: Path) -> Path:
    return catalogue.parent / "sentinel-2-l2a" / BROKEN / f"{BROKEN}.json"


def drop_asset(key: str) -> Callable[[Path], None]:
    def change(catalogue: Path) -> None:
        rewrite(
            item_of(catalogue), assets=lambda assets: {k: a for k, a in assets.items() if k != key}
        )

    return change


def cut(key: str) -> Callable[[Path], None]:
    def change(catalogue: Path) -> None:
        path = item_of(catalogue).with_name(f"{key}.tif")
        os.truncate(path, path.stat().st_size // 2)

    return change


def remove(key: str) -> Callable[[Path], None]:
    return lambda catalogue: item_of(catalogue).with_name(f"{key}.tif").unlink()


@pytest.mark.parametrize(
    "damage",
    [drop_asset("scl"), drop_asset("red"), cut("scl"), cut("swir22"), remove("scl"), remove("nir")],
    ids=["no scl", "no red", "cut scl", "cut swir22", "no scl file", "no nir file"],
)
def test_a_scene_that_cannot_be_read_is_listed_and_never_clear(
    damage: Callable[[Path], None], catalogue: Path, window: Path, tmp_path: Path
) -> None:
    damage(catalogue)
    done = ingest(catalogue, tmp_path / "out", window, code=1)
    assert BROKEN in done.all
    (found,) = tiles(tmp_path / "out")
    assert found.days(2022) == [DAYS[0], DAYS[2]], "the others are written"
    assert found["masks"].all()
    assert BROKEN in json.dumps(found.record)
    assert found.has("sar_ascending")


def test_an_unreadable_copy_falls_back_to_the_next(window: Path, tmp_path: Path) -> None:
    out = tmp_path / "catalogue"
    items = [
        optical(out, DAYS[0], surface(1), copy="0", baseline="02.14"),
        optical(out, DAYS[0], surface(2), copy="1", baseline="05.00", added=1000),
    ]
    path = Path(items[1].assets["red"].href)
    os.truncate(path, path.stat().st_size // 2)
    done = ingest(catalogue_of(out, *items), tmp_path / "out", window, code=1)
    (found,) = tiles(tmp_path / "out")
    assert np.array_equal(found["bands"][0], surface(1))
    assert items[1].id in done.all, "the copy that was not read is named"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(f"{BROKEN}/green.tif", 503, times=3),
        Fault(f"{BROKEN}/scl.tif", 429, times=3),
        Fault("nir.tif", 200, times=2, is_cut=True),
        Fault("20220115_0_L2A.json", 503, times=1),
        Fault("collection.json", 503, times=1),
    ],
    ids=["503", "429", "cut body", "503 on an item", "503 on a collection"],
)
def test_what_heals_leaves_no_trace(
    fault: Fault, catalogue: Path, window: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    with serve(catalogue.parent) as server:
        server.faults.append(fault)
        ingest(f"{server.url}/catalog.json", tmp_path / "out", window)
        assert fault.times == 0, "the fault was met"
    assert arrays(tmp_path / "out") == whole


@pytest.mark.parametrize("status", [503, 404])
def test_what_does_not_heal_is_read_by_a_rerun_alone(
    status: int, catalogue: Path, window: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    with serve(catalogue.parent) as server:
        url, out = f"{server.url}/catalog.json", tmp_path / "out"
        server.faults.append(Fault(f"{BROKEN}/swir16.tif", status))
        done = ingest(url, out, window, "--retries", 1, code=1)
        assert BROKEN in done.all
        (found,) = tiles(out)
        assert found.days(2022) == [DAYS[0], DAYS[2]]
        server.faults.clear()
        server.answers.clear()
        ingest(url, out, window)
        asked = {path.split("/")[2] for path in server.paths(".tif")}
        assert asked == {BROKEN}, "finished dates are not read again"
        assert arrays(out) == whole
        server.answers.clear()
        before = products(out)
        ingest(url, out, window)
        assert not server.paths(".tif"), "nor is a finished tile"
        assert products(out) == before


@pytest.mark.parametrize(
    ("raster", "num_finished"),
    [("20220105_0_L2A/scl", 0), ("20220115_0_L2A/swir22", 2), ("ascending_rtc/vh", 3)],
)
def test_killed_run_is_finished_by_a_rerun_with_the_same_bytes(
    raster: str, num_finished: int, catalogue: Path, window: Path, tmp_path: Path
) -> None:
    """One worker reads the dates in order, so those before the one it is killed in are finished."""
    with serve(catalogue.parent) as server:
        url = f"{server.url}/catalog.json"
        ingest(url, tmp_path / "whole", window)
        scenes = scenes_asked_for(server)
        server.answers.clear()
        server.hold(f"{raster}.tif")
        process = start(arguments(url, tmp_path / "out", window, "--workers", 1))
        assert server.held.wait(60), process.communicate()[0]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        server.release()
        assert not tiles(tmp_path / "out"), "nothing looks finished"
        server.answers.clear()
        ingest(url, tmp_path / "out", window)
        assert scenes_asked_for(server) == scenes[num_finished:]
    assert products(tmp_path / "out") == products(tmp_path / "whole")


def scenes_asked_for(server: RangeServer) -> list[str]:
    """Return the scenes whose rasters were asked for, in the order of their dates."""
    found = {path.split("/")[2] for path in server.paths(".tif")}
    return sorted(found, key=lambda scene: (scene.startswith("S1"), scene))


def test_tokens_reach_the_server_and_no_record(
    catalogue: Path, window: Path, tmp_path: Path
) -> None:
    with serve(catalogue.parent) as server:

        def sign(assets: dict[str, Any]) -> dict[str, Any]:
            for asset in assets.values():
                name = asset["href"].removeprefix("./")
                asset["href"] = f"{server.url}/sentinel-2-l2a/{BROKEN}/{name}?sig=SECRET"
            return assets

        rewrite(item_of(catalogue), assets=sign)
        server.faults.append(Fault(f"{BROKEN}/green.tif", 404))
        done = ingest(f"{server.url}/catalog.json", tmp_path / "out", window, code=1)
        assert any("SECRET" in answer.query for answer in server.answers)
        server.faults.clear()
        again = ingest(f"{server.url}/catalog.json", tmp_path / "out", window)
    assert "SECRET" not in done.all + again.all
    for name, content in files(tmp_path / "out").items():
        assert b"SECRET" not in content, name


ESCAPES = [
    "file://{}",
    "file://localhost{}",
    "{}",
    "../../../elsewhere/red.tif",
    "/vsizip/{}",
    "/vsicurl/file://{}",
]


@pytest.mark.parametrize("href", ESCAPES)
def test_a_catalogue_from_the_net_cannot_open_local_files(
    href: str, catalogue: Path, window: Path, tmp_path: Path
) -> None:
    """A remote catalogue that names local files would have them copied into published tiles."""
    private = tmp_path / "elsewhere" / "red.tif"
    private.parent.mkdir()
    item_of(catalogue).with_name("red.tif").rename(private)

    def change(assets: dict[str, Any]) -> dict[str, Any]:
        assets["red"]["href"] = href.format(private)
        return assets

    rewrite(item_of(catalogue), assets=change)
    with serve(catalogue.parent) as server:
        done = ingest(f"{server.url}/catalog.json", tmp_path / "out", window, code=1)
    assert BROKEN in done.all
    (found,) = tiles(tmp_path / "out")
    assert DAYS[1] not in found.days(2022)


@pytest.mark.parametrize("name", ["../../../../escaped", "/escaped", "a/b"])
def test_identifiers_of_items_cannot_leave_the_output(
    name: str, catalogue: Path, window: Path, tmp_path: Path
) -> None:
    rewrite(item_of(catalogue), id=lambda _: name)
    before = set(tmp_path.iterdir())
    ingest(catalogue, tmp_path / "out", window)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}
    (found,) = tiles(tmp_path / "out")
    assert DAYS[1] in found.days(2022)
