"""Large tables are judged on few rows: the verdict must be that of all rows."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.validation import screen as screening
from tasks.validation.checks import Check
from tasks.validation.expectations import judge
from tasks.validation.screen import MOST_FAILURES, screen
from tasks.validation.verdict import Verdict

CHECKS = (
    Check("low", "t", "a", 0.0, None, "below"),
    Check("high", "t", "a", None, 1.0, "above", "note"),
    Check("both", "t", "b", -1.0, 1.0, "outside"),
    Check("empty", "t", "c", 0, 0, "never measured"),
)


def make_table(num: int, **changes: Any) -> pd.DataFrame:
    rng = np.random.default_rng(num)
    columns = {"a": rng.uniform(0, 1, num), "b": rng.uniform(-1, 1, num), "c": np.full(num, np.nan)}
    columns["b"][rng.random(num) < 0.3] = np.nan
    for name, (places, value) in changes.items():
        columns[name][places] = value
    address = {"tile": [f"t{i}" for i in range(num)], "sensor": "s2", "band": "B04"}
    return pd.DataFrame({**address, **columns, "note": [f"n{i}" for i in range(num)]})


def judged(table: pd.DataFrame) -> Verdict:
    return judge({"t": table}, CHECKS, {"t": 1})


def test_a_large_clean_table_passes_on_few_rows_and_every_cell_counts_as_judged() -> None:
    table = make_table(20_000)
    found = screen(table, CHECKS)
    assert len(found.table) <= 6
    verdict = judged(table)
    assert verdict.success
    values = [int(table[c.column].notna().sum()) for c in CHECKS]
    assert [check.judged for check in verdict.checks] == values
    assert verdict.tables == {"t": 20_000}


def test_failures_of_a_large_table_keep_their_addresses_and_notes() -> None:
    verdict = judged(make_table(20_000, a=([5, 19_999], [-0.5, 7.0]), b=([123], [-np.inf])))
    found = [(f.tile, f.expectation, f.found) for f in verdict.failures]
    assert found == [
        ("t123", "both", "-inf"),
        ("t19999", "high", "7 (n19999)"),
        ("t5", "low", "-0.5"),
    ]
    assert [check.failed for check in verdict.checks] == [1, 1, 1, 0]


def test_more_failures_than_are_named_are_counted() -> None:
    verdict = judged(make_table(20_000, b=(np.arange(0, 20_000, 3), 2.0)))
    assert len(verdict.failures) == MOST_FAILURES
    assert verdict.checks[2].failed == len(range(0, 20_000, 3))


@pytest.mark.parametrize("seed", [1, 2])
def test_verdict_is_the_one_that_great_expectations_reaches_on_all_rows(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    table = make_table(6000, a=(rng.integers(0, 6000, 9), rng.uniform(-1, 2, 9)))
    found = judged(table)
    monkeypatch.setattr(screening, "_SMALL", 10**9)
    assert judged(table) == found


def test_too_few_rows_are_a_failure_of_the_table() -> None:
    verdict = judge({"t": make_table(3)}, CHECKS, {"t": 4})
    assert [(f.expectation, f.found) for f in verdict.failures] == [("row_count", "3 rows")]
