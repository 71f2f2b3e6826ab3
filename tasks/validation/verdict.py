"""The outcome of a validation: passed or not, every failure with its address.

A failure names the tile (or shard), the band, the expectation, what was found and what was
expected, so that the fault can be mended without opening anything else. A verdict holds no clock
and no path: the same inputs give the same bytes, wherever they lie.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_NAMED = 5  # failures spelled out in a message; the verdict file has all of them


@dataclass(frozen=True, slots=True, order=True)
class Failure:
    """One expectation broken at one place."""

    tile: str
    """Tile key or shard name; empty for the table as a whole."""
    sensor: str
    """``s2``, ``sar_ascending``, ``sar_descending``; empty where it is about the tile."""
    band: str
    """Band name; empty where it is about the whole tile or sensor."""
    expectation: str
    """Name of the check."""
    found: str
    """The measured value, and in brackets what says more about it."""
    expected: str
    """The bounds."""

    def __str__(self) -> str:
        where = " ".join(part for part in (self.tile, self.sensor, self.band) if part)
        return f"{where}: {self.expectation}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check went over its whole table."""

    expectation: str
    """Name of the check."""
    table: str
    """Table it was held against."""
    column: str
    """Column of that table."""
    low: float | None
    """Lowest value allowed."""
    high: float | None
    """Highest value allowed."""
    expected: str
    """The bounds."""
    why: str
    """What is wrong when it fails."""
    judged: int
    """Cells that had a value."""
    failed: int
    """Of these, cells out of bounds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a suite found."""

    checks: tuple[Outcome, ...]
    """Every check, in the order of the suite."""
    failures: tuple[Failure, ...]
    """Every failure, sorted by tile, sensor, band and expectation."""
    suite: str
    """SHA-256 of the suite."""
    tables: dict[str, int]
    """Rows of each table that was judged."""
    reference: str = ""
    """SHA-256 of what the tables were held against; empty where only the suite judges."""

    @property
    def success(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: success, checks, failures, suite, tables, any reference."""
        return {
            "success": self.success,
            "checks": [asdict(check) for check in self.checks],
            "failures": [asdict(failure) for failure in self.failures],
            "suite": self.suite,
            "tables": dict(self.tables),
            **({"reference": self.reference} if self.reference else {}),
        }

    def summary(self) -> str:
        """Name the first failures in one line, and how many more there are."""
        if self.success:
            return f"all {len(self.checks)} expectations met"
        return _join(self.failures)


def _join(failures: Sequence[Failure]) -> str:
    named = "; ".join(str(failure) for failure in failures[:_NAMED])
    more = len(failures) - _NAMED
    count = f"{len(failures)} failure{'s' if len(failures) > 1 else ''}"
    return f"{count}: {named}" + (f"; and {more} more" if more > 0 else "")
