"""Looking after the store: what is listed, what goes first when room is made, the commands."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tasks.cli import app
from tasks.targets.entry import ENTRY, TARGETS
from tasks.targets.store import TargetStore
from tasks.targets.upkeep import Kept, choose, list_entries
from tests.streams import flip
from tests.targets import Bench, bytes_below


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def kept(number: int, days: int, size: int = 100, teacher: str = "aa") -> Kept:
    used = datetime(2026, 3, 1, tzinfo=UTC) - timedelta(days=days)
    return Kept(f"{number:064x}", teacher, "float16", 10, size, size, used)


@pytest.mark.parametrize(
    ("limits", "gone"),
    [
        ({"unused_days": 25}, [0, 1]),
        ({"max_bytes": 250}, [0, 1]),
        ({"max_bytes": 400}, []),
        ({"max_bytes": 0}, [0, 1, 2, 3]),
        ({"unused_days": 35, "max_bytes": 250}, [0, 1]),
        ({"max_bytes": 0, "teacher": "bb"}, [3]),
    ],
)
def test_what_was_used_longest_ago_goes_first(limits: dict[str, Any], gone: list[int]) -> None:
    entries = [kept(0, 40), kept(1, 30), kept(2, 20), kept(3, 10, teacher="bb")]
    chosen = choose(entries, datetime(2026, 3, 1, tzinfo=UTC), **limits)
    assert [int(one.address, 16) for one in chosen] == gone


def test_a_taken_entry_counts_as_used(bench: Bench) -> None:
    bench.cache()
    for place in bench.entries().values():
        os.utime(place / ENTRY, (0, 0))
    bench.cache()
    assert min(one.used for one in list_entries(TargetStore(bench.store))).year > 2000


def test_an_entry_that_is_removed_while_it_is_taken_was_taken_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.cache()
    output, touch = bytes_below(bench.output), os.utime

    def remove_first(path: Path) -> None:
        shutil.rmtree(path.parent)
        touch(path)

    monkeypatch.setattr("tasks.targets.store.os.utime", remove_first)
    bench.cache()
    assert bench.entries() == {}
    assert bytes_below(bench.output) == output


def bytes_below_entries(bench: Bench) -> dict[str, dict[str, bytes]]:
    return {address: bytes_below(place) for address, place in bench.entries().items()}


def tessera(bench: Bench, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setenv("TESSERA_TARGETS", str(bench.store))
    monkeypatch.setenv("TESSERA_ROOT", str(Path(__file__).parents[2]))
    done = CliRunner().invoke(app, ["targets", *arguments])
    return done.exit_code, done.output


def test_the_store_is_listed_verified_and_pruned_by_command(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.cache()
    code, printed = tessera(bench, monkeypatch, "list", "--json")
    assert code == 0
    assert {one["address"] for one in json.loads(printed)} == set(bench.entries())
    assert "3 shards of 210 rows" in tessera(bench, monkeypatch, "list")[1]
    assert tessera(bench, monkeypatch, "verify") == (0, "3 entries read, 0 damaged\n")

    place = sorted(bench.entries().items())[0][1]
    flip(place / TARGETS, 700)
    code, printed = tessera(bench, monkeypatch, "verify")
    assert (code, place.name in printed) == (1, True)

    before = bytes_below_entries(bench)
    (bench.store / ".aside" / ("0" * 64)).mkdir()  # as a killed run leaves it
    code, printed = tessera(bench, monkeypatch, "prune", "--max-gb", "0")
    assert (code, bytes_below_entries(bench)) == (0, before)
    assert "would remove 3 shards" in printed
    assert "and 1 half-made" in printed
    with TargetStore(bench.store).alone(place.name, wait=True):
        code, printed = tessera(bench, monkeypatch, "prune", "--max-gb", "0", "--apply")
    assert list(bench.entries()) == [place.name]
    assert f"left, a run is at it: {place.name[:12]}" in printed
    assert not list((bench.store / ".aside").iterdir())
    code, printed = tessera(bench, monkeypatch, "prune", "--unused-days", "0", "--apply", "--json")
    assert (code, bench.entries()) == (0, {})
    assert [one["address"] for one in json.loads(printed)["removed"]] == [place.name]
    assert tessera(bench, monkeypatch, "prune")[0] != 0
