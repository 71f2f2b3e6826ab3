"""Measure validation: rows of statistics judged a second, and the pass over a shard's observations.

The pass is held against two plain sums of the same bytes in the same process: ``numpy.sum`` of the
numbers as they are, and of the bytes taken as 64-bit words, which is as fast as memory is read.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.measuring import RESULTS, cpu_seconds, machine, show
from models.dpixel import DPixels, Series, offsets_of
from tasks.params import read_params
from tasks.validation.checks import Check, archive_checks
from tasks.validation.dpixel_checks import scan
from tasks.validation.expectations import judge
from tasks.validation.tables import shard_statistics

ROWS = 1_000_000
DPIXELS = 400_000
TABLE = "bands"
ROUNDS = 5


def seconds_of(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the least CPU time of several runs, all on one thread."""
    return min(cpu_seconds(work) for _ in range(rounds))


def make_table(checks: list[Check], num: int) -> pd.DataFrame:
    """Return rows that every check passes."""
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {"tile": [f"2021/{i}" for i in range(num)], "sensor": "s2"}
    columns["band"] = "B04"
    for check in checks:
        low = check.low if check.low is not None else (check.high or 0.0) - 1
        high = check.high if check.high is not None else low + 1
        columns[check.column] = rng.uniform(low, high, num)
        columns |= {check.note: "x"} if check.note else {}
    return pd.DataFrame(columns)


def measure_tables(num: int) -> dict[str, Any]:
    """Judge a table with every check that an archive's bands have: clean, and with many faults."""
    limits = read_params(Path(__file__).parents[1] / "params.yaml").validate_
    checks = [check for check in archive_checks(limits) if check.table == TABLE]
    table = make_table(checks, num)
    judge({TABLE: table[:10]}, checks, {TABLE: 1})  # the import is no part of it
    found: dict[str, Any] = {"rows": num, "expectations": len(checks)}
    found["clean_s"] = seconds_of(lambda: judge({TABLE: table}, checks, {TABLE: 1}), 3)
    faulty = table.copy()
    faulty.loc[::100, "std"], faulty.loc[::50, "detail"] = 0.0, 0.1
    found["faulty_s"] = seconds_of(lambda: judge({TABLE: faulty}, checks, {TABLE: 1}), 3)
    found["rows_per_second"] = num / found["clean_s"]
    show("tables", found)
    return found


def make_series(num: int, mean: float, bands: int, dtype: type) -> Series:
    """Return ragged observations of random numbers on rising days."""
    rng = np.random.default_rng(bands)
    counts = np.minimum(rng.poisson(mean, num), 360)
    offsets = offsets_of(counts)
    total = int(offsets[-1])
    days = np.arange(total) - np.repeat(offsets[:-1], counts) + 1
    values: npt.NDArray[Any] = rng.integers(1, 9000, (total, bands)).astype(dtype)
    return Series(values, days.astype(np.int16), offsets)


def measure_pass(num: int) -> dict[str, Any]:
    """Compare the full pass over a shard with plain sums of the same bytes."""
    radar = [make_series(num, 55, 2, np.int16) for _ in range(2)]
    dpixels = DPixels(
        np.arange(num, dtype=np.uint64), make_series(num, 63, 10, np.uint16), radar[0], radar[1]
    )
    parts = [a for s in (dpixels.s2, *radar) for a in (s.values.reshape(-1), s.doy)]
    words = [a[: len(a) // 4 * 4].view(np.uint64) for a in parts]
    gigabytes = sum(a.nbytes for a in parts) / 1e9
    rates = {
        "scan": gigabytes / seconds_of(lambda: scan(dpixels)),
        "shard_statistics": gigabytes / seconds_of(lambda: shard_statistics("s", dpixels)),
        "plain_sum": gigabytes / seconds_of(lambda: [a.sum() for a in parts]),
        "memory": gigabytes / seconds_of(lambda: [a.sum() for a in words]),
    }
    found: dict[str, Any] = {"dpixels": num, "gigabytes": gigabytes, "gigabytes_per_second": rates}
    found["scan_over_plain_sum"] = rates["scan"] / rates["plain_sum"]
    found["scan_over_memory"] = rates["scan"] / rates["memory"]
    show("pass", found)
    return found


def main() -> None:
    """Measure everything and write ``results/validation.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--dpixels", type=int, default=DPIXELS)
    chosen = parser.parse_args()
    content = {
        "machine": machine(),
        "tables": measure_tables(chosen.rows),
        "pass": measure_pass(chosen.dpixels),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "validation.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
