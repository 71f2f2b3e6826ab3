"""The store of targets: whole or absent after any crash, one maker at a time, damage named."""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tasks.errors import DigestMismatch, ParamsError
from tasks.targets.entry import ENTRY, MOMENTS, TARGETS, read_entry
from tasks.targets.store import TargetStore
from tests.streams import flip
from tests.targets import SHARD_ROWS, Bench, bytes_below, small_dpixels

FORK = get_context("fork")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Store and output of a run that nothing disturbed."""
    bench = Bench(tmp_path_factory.mktemp("whole"))
    bench.cache()
    return {"store": entries_of(bench), "output": bytes_below(bench.output)}


def entries_of(bench: Bench) -> dict[str, bytes]:
    """Return what every reader of the store can see."""
    return {
        f"{address}/{name}": content
        for address, place in bench.entries().items()
        for name, content in bytes_below(place).items()
    }


def in_a_process(act: Callable[[], Any]) -> int:
    """Run something in a process of its own; return its exit code, negative for a signal."""
    process = FORK.Process(target=act)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def killed_at(bench: Bench, at: int) -> bool:
    """Run until just before the given change of a name, and die there; say whether it came to it."""

    def act() -> None:
        changes = itertools.count(1)

        def wrapped(change: Callable[..., Any]) -> Callable[..., Any]:
            def dying(*arguments: Any, **named: Any) -> Any:
                if next(changes) == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*arguments, **named)

            return dying

        os.rename, os.replace, os.link = map(wrapped, (os.rename, os.replace, os.link))
        bench.cache()

    return in_a_process(act) == -signal.SIGKILL


def test_a_kill_at_any_change_leaves_whole_entries_only_and_a_rerun_the_same_bytes(
    bench: Bench,
) -> None:
    bench.pack(small_dpixels().slice(0, SHARD_ROWS + 20))
    bench.cache()
    whole, output = entries_of(bench), bytes_below(bench.output)
    for at in itertools.count(1):
        shutil.rmtree(bench.store)
        bench.store.mkdir()
        if not killed_at(bench, at):
            break
        assert entries_of(bench).items() <= whole.items()
        assert all(len(list(place.iterdir())) == 3 for place in bench.entries().values())
        bench.cache()
        assert (entries_of(bench), bytes_below(bench.output)) == (whole, output)
        assert not list((bench.store / ".aside").iterdir())
    # Of each shard its file, its record, its place and its link; then blocks, index, diagnostics.
    assert at - 1 == 2 * 4 + 3


def test_two_runs_at_once_share_the_work(bench: Bench, whole: dict[str, dict[str, bytes]]) -> None:
    results = FORK.Queue()
    gate = FORK.Barrier(2)

    def run(name: str) -> None:
        other = Bench(bench.root / name)
        (other.root / "store").symlink_to(bench.root / "store")
        gate.wait(30)
        other.cache()
        results.put((name, other.made, bytes_below(other.output)))

    bench.store.mkdir()
    for name in ("one", "two"):
        (bench.root / name).mkdir()
    processes = [FORK.Process(target=run, args=(name,)) for name in ("one", "two")]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert [made for _, made, _ in found if sum(made) != 3] == []
    assert sum(made for _, (made, _), _ in found) == 3  # each shard once, by one of the two
    assert all(content == whole["output"] for _, _, content in found)
    assert entries_of(bench) == whole["store"]


def test_a_shard_that_another_run_is_at_is_left_for_last_and_then_taken(bench: Bench) -> None:
    bench.cache()
    first = bench.content["shards"][0]["address"]
    elsewhere = bench.root / "made elsewhere"
    bench.entries()[first].rename(elsewhere)
    for place in bench.entries().values():
        shutil.rmtree(place)
    store = TargetStore(bench.store)
    with store.alone(first, wait=True):
        run = Thread(target=bench.cache)
        run.start()
        while len(bench.entries()) < 2:
            assert run.is_alive()
            time.sleep(0.01)
        assert first not in bench.entries()
        elsewhere.rename(store.place_of(first))
    run.join(60)
    assert bench.made == (2, 1)


@pytest.mark.parametrize("name", [TARGETS, MOMENTS, ENTRY])
@pytest.mark.parametrize("fault", ["flipped", "cut", "gone"])
def test_a_damaged_entry_is_named_and_made_again(
    name: str,
    fault: str,
    bench: Bench,
    whole: dict[str, dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench.cache()
    shutil.rmtree(bench.output)  # its links would be damaged as well
    address, place = sorted(bench.entries().items())[1]
    path = place / name
    if fault == "flipped":
        flip(path, path.stat().st_size // 2)
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    capsys.readouterr()
    bench.cache()
    assert bench.made == (1, 2)
    assert bench.cost["shards_damaged"] == 1
    said = capsys.readouterr().out
    assert said.count("damaged, made again") == 1
    assert address in said
    assert entries_of(bench) == whole["store"]
    assert bytes_below(bench.output) == whole["output"]


def test_an_entry_under_another_address_is_not_believed(bench: Bench) -> None:
    bench.cache()
    shutil.rmtree(bench.output)
    (_, one), (_, two) = sorted(bench.entries().items())[:2]
    shutil.rmtree(one)
    shutil.copytree(two, one)  # whole in itself, but the targets of another shard
    bench.cache()
    assert bench.made == (1, 2)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"digest": 1, "address": {"x": 1}}']
)
def test_what_is_no_entry_is_refused_by_name(content: bytes, bench: Bench) -> None:
    bench.cache()
    address, place = next(iter(bench.entries().items()))
    (place / ENTRY).write_bytes(content)
    with pytest.raises(DigestMismatch, match=address):
        read_entry(place)


def test_an_entry_with_pickled_numbers_is_refused(bench: Bench) -> None:
    import numpy as np

    bench.cache()
    place = next(iter(bench.entries().values()))
    np.save(place / MOMENTS, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DigestMismatch, match="moments"):
        read_entry(place)


@pytest.mark.parametrize("address", ["s3://bucket/targets", "a file"])
def test_a_store_that_is_no_folder_is_refused(address: str, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(ParamsError, match="TESSERA_TARGETS"):
        TargetStore(tmp_path / address if address == "a file" else Path(address))
