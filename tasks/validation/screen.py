"""Choose the rows of a large table of statistics that decide every bound, and count the others.

Great Expectations looks at every cell several times and copies tables on the way: seconds a million
rows. A bound holds for a whole column if it holds for the smallest and the largest value, so a large
table is judged on few rows: those two of each column, and the rows that are out of bounds. The
counts are taken here, over all rows. Small tables are judged as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.validation.checks import Check

MOST_FAILURES = 2000
"""Rows out of bounds that are judged and named, for each check; the count is exact beyond it."""

_SMALL = 5000  # rows of a table that is judged as it is


@dataclass(frozen=True, slots=True)
class Screened:
    """What remains to be judged of a table, and what was counted."""

    table: pd.DataFrame
    """Rows in their order: all of a small table, the deciding ones of a large one."""
    judged: dict[str, int]
    """Cells with a value, by check; 0 where the table has no such column."""
    failed: dict[str, int]
    """Of these, cells out of bounds."""


def screen(table: pd.DataFrame, checks: Sequence[Check]) -> Screened:
    """Screen a table by the checks that are about it.

    Args:
        table: Rows with the columns that the checks name; an empty cell is not judged.
        checks: Bounds on columns; a column that the table lacks is left to the judge.

    Returns:
        The rows that decide, in their order, and the exact counts.
    """
    keep = np.zeros(len(table), bool)
    judged, failed = {}, {}
    for check in checks:
        if check.column not in table.columns:
            judged[check.name] = failed[check.name] = 0
            continue
        values = table[check.column].to_numpy(dtype=np.float64, na_value=np.nan)
        outside = _outside(values, check)
        judged[check.name] = len(values) - int(np.isnan(values).sum())
        failed[check.name] = int(outside.sum())
        keep[np.flatnonzero(outside)[:MOST_FAILURES]] = True
        if judged[check.name]:
            keep[[np.nanargmin(values), np.nanargmax(values)]] = True
    return Screened(table if len(table) <= _SMALL else table[keep], judged, failed)


def _outside(values: npt.NDArray[np.float64], check: Check) -> npt.NDArray[Any]:
    outside = np.zeros(len(values), bool)
    if check.low is not None:
        outside |= values < check.low
    if check.high is not None:
        outside |= values > check.high
    return outside
