"""Measure packing: its rate against writing the same bytes, its memory, what a d-pixel takes, mixing.

    python -m benchmarks.packing                 everything, about ten minutes
    python -m benchmarks.packing --only memory   one part: rate, memory

The rate is that of the whole of packing, archive in to index out: every input byte verified, both
passes, every digest, the statistics, the verdict. What happens once a process, such as importing the
library that judges, is left to a round that does not count. It is compared, in turn and by the clock,
with two ways of writing the finished files from memory, flushed to the disk; medians are reported.
Results are added to `benchmarks/results/packing.json`. Measure on an idle machine: there are two threads.

| word | means |
|---|---|
| plain | writing and nothing else: the page cache takes it at the speed of memory |
| owed | writing, hashed twice (blocks and shards), after reading and hashing the archive |
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.limits import peak_mb
from benchmarks.measuring import RESULTS, machine, show
from benchmarks.tiles import write_tile
from tasks.files import sync_file
from tasks.ingest import Catalogue, make_catalogue
from tasks.pack import pack_archive
from tasks.settings.data import PackParams

ROUNDS = 5
TILES, TILE_PX = 8, 192
MILLIONS = 12  # pixels of the memory part, a tile each; some were never observed
BUDGETS_MB = (256, 1024)
CHUNK = 8 << 20
FEW: dict[str, int] = {"dates": 5, "passes": 3}
"""Dates of the memory part: rows are what matters, and the disk shall hold them."""


def settings(**changes: int) -> PackParams:
    """Return settings of the stage: shards of about 25 MB in blocks of 1.5 MB, by default.

    They are 18 shards for two threads: with a few large ones, one thread would idle at the end, which
    says nothing of a corpus of thousands.
    """
    given = {"rows_per_shard": 16384, "block_rows": 1024, "min_s2": 4, "min_s1": 4}
    given |= {"seed": 1, "memory_mb": 512, "threads": 2, "holdout_block_m": 1000} | changes
    return PackParams.model_validate(given | {"holdout": "", "holdout_years": "any"})


def made_up_archive(root: Path, tiles: int, size_px: int, **dates: int) -> Catalogue:
    """Write tiles of random values and return their catalogue."""
    for number in range(tiles):
        write_tile(root / "2021" / f"{number}", size_px, seed=number, **dates)
    return Catalogue(root, tuple(make_catalogue(root)))


def pack_afresh(catalogue: Catalogue, work: Path, params: PackParams) -> dict[str, Any]:
    """Pack into empty folders and return what the index says."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "work").mkdir(parents=True)
    (work / "build").mkdir()
    return pack_archive(catalogue, work / "work", work / "build", params)


def write_verified(catalogue: Catalogue, contents: list[bytes], path: Path) -> None:
    """Write bytes with the digests of the format, after comparing the archive with its catalogue."""
    for index in range(len(catalogue)):
        catalogue.tile(index)
    write_plainly(contents, path, digests=2)


def write_plainly(contents: list[bytes], path: Path, *, digests: int = 0) -> None:
    """Write bytes one after the other and flush them to the disk."""
    found = [sha256() for _ in range(digests)]
    with path.open("wb") as sink:
        for content in contents:
            for start in range(0, len(content), CHUNK):
                part = memoryview(content)[start : start + CHUNK]
                for digest in found:
                    digest.update(part)
                sink.write(part)
    sync_file(path)


def measure_rate(work: Path) -> dict[str, Any]:
    """Compare packing with writing what it wrote."""
    catalogue, out = made_up_archive(work / "archive", TILES, TILE_PX), work / "packed"
    facts = pack_afresh(catalogue, out, settings())
    contents = [path.read_bytes() for path in sorted((out / "build").iterdir())]
    plain = work / "plain.bin"
    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: write_plainly(contents, plain),
        "owed": lambda: write_verified(catalogue, contents, plain),
        "packing": lambda: pack_afresh(catalogue, out, settings()),
    }
    clock: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            shutil.rmtree(out, ignore_errors=True)
            plain.unlink(missing_ok=True)
            start, used = time.perf_counter(), time.process_time()
            way()
            clock[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)
    size, rows = sum(map(len, contents)), sum(s["rows"] for s in facts["sources"])
    seconds = {name: statistics.median(taken) for name, taken in clock.items()}
    used_s = {name: statistics.median(taken) for name, taken in cpu.items()}
    found = {
        "dpixels": rows,
        "output_mb": size / 1e6,
        "archive_mb": sum(f["size"] for e in catalogue.entries for f in e.files.values()) / 1e6,
        "mb_per_s": {name: size / 1e6 / taken for name, taken in seconds.items()},
        "packing_over_plain": seconds["plain"] / seconds["packing"],
        "packing_over_owed": seconds["owed"] / seconds["packing"],
        "cpu_s": used_s,
        "dpixels_per_cpu_s": rows / used_s["packing"],
        "dpixels_per_cpu_s_beyond_owed": rows / (used_s["packing"] - used_s["owed"]),
        "bytes": facts["bytes"],
        "mixing": facts["mixing"],
    }
    shutil.rmtree(work / "archive")
    show("rate", found)
    return found


def measure_memory(work: Path) -> dict[str, Any]:
    """Pack more than ten million d-pixels in a process of its own, with two budgets."""
    root = work / "many"
    made_up_archive(root, MILLIONS, 1000, **FEW)
    found: dict[str, Any] = {}
    for budget in BUDGETS_MB:
        command = [sys.executable, "-m", "benchmarks.packing", "--child", str(root), str(budget)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[f"budget_{budget}_mb"] = json.loads(done.stdout.splitlines()[-1])
        show(f"memory {budget}", found[f"budget_{budget}_mb"])
    shutil.rmtree(root)
    return found


def pack_in_this_process(root: Path, budget: int) -> None:
    """Pack an archive and print rows, seconds, and the memory before and at the peak."""
    import great_expectations  # noqa: F401 - its size is the program's, not the shuffle's

    catalogue = Catalogue(root, tuple(make_catalogue(root)))
    base, start = peak_mb(), time.perf_counter()
    shape = {"rows_per_shard": 262144, "block_rows": 16384, "min_s2": 1, "min_s1": 1}
    work = root.with_name("packed-many")
    facts = pack_afresh(catalogue, work, settings(memory_mb=budget, **shape))
    found = {
        "dpixels": sum(source["rows"] for source in facts["sources"]),
        "bytes_per_dpixel": facts["bytes"]["per_dpixel"],
        "seconds": time.perf_counter() - start,
        "program_mb": base,
        "peak_mb": peak_mb(),
        "mixing_ratio": facts["mixing"]["ratio"],
    }
    shutil.rmtree(work)
    print(json.dumps(found))


PARTS = {"rate": measure_rate, "memory": measure_memory}


def main() -> None:
    """Take the measurements and add them to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--child", nargs=2, metavar=("ROOT", "MB"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        pack_in_this_process(Path(chosen.child[0]), int(chosen.child[1]))
        return
    path = RESULTS / "packing.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as work:
        for name in [chosen.only] if chosen.only else PARTS:
            results[name] = PARTS[name](Path(work))
    results["machine"] = machine()
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
