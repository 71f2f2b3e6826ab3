"""What is found in an object: plain facts and tables, shown as text or as JSON.

The one idea: whoever looks into an object returns plain values; how they are laid out is decided
here, once, for all kinds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

_MOST_ROWS = 40  # of a table as text; JSON has them all
_DIGEST_CHARS = 64
_SHORT_CHARS = 12
_WIDEST = 90
_FOUR_DIGITS = 1000
_APART = 10_000  # from here on digits stand in threes; a year does not

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One object as one kind of thing."""

    kind: str
    """What it is, e.g. ``tile folder``."""
    path: str
    facts: Row
    """Single facts by name; a nested object is one fact a leaf when shown as text."""
    tables: dict[str, list[Row]] = field(default_factory=dict)
    """Rows by title; all rows of a table have the same columns."""

    def render(self) -> str:
        """Return the finding as text for a terminal."""
        lines = [f"{self.kind}  {self.path}", *_fact_lines(self.facts)]
        for title, rows in self.tables.items():
            lines += ["", title, *_table_lines(rows)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the finding in plain JSON types: what is no finite number becomes null."""
        return {
            "kind": self.kind,
            "path": self.path,
            "facts": _plain(self.facts),
            "tables": _plain(self.tables),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _fact_lines(facts: Row) -> list[str]:
    leaves = list(_leaves(facts))
    width = max((len(name) for name, _ in leaves), default=0)
    return [f"  {name:<{width}}  {_text(value)}" for name, value in leaves]


def _leaves(facts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _table_lines(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["  none"]
    names = list(rows[0])
    cells = [[_text(row[name]) for name in names] for row in rows[:_MOST_ROWS]]
    left = [any(isinstance(row[name], str | list) for row in rows) for name in names]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = []
    for line in [names, *cells]:
        padded = [
            cell.ljust(width) if is_text else cell.rjust(width)
            for cell, width, is_text in zip(line, widths, left, strict=True)
        ]
        lines.append("  " + "  ".join(padded).rstrip())
    more = len(rows) - _MOST_ROWS
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _text(value: Any) -> str:
    """Return a value as people read it: thousands apart, four digits, short digests."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, int | float):
        whole = isinstance(value, int) or abs(value) >= _FOUR_DIGITS
        return (
            f"{value:,.0f}" if abs(value) >= _APART else f"{value:.0f}" if whole else f"{value:.4g}"
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _cut(", ".join(map(_text, value)) or "none")
    text = str(value)
    is_digest = len(text) == _DIGEST_CHARS and not set(text) - set("0123456789abcdef")
    return text[:_SHORT_CHARS] if is_digest else _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def size_text(num_bytes: int) -> str:
    """Return a size as people read it, e.g. ``7.5 MB``."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
