"""The results of the control experiments as files: JSON, CSV, a picture, a page.

The one idea: one table, the score by prefix of each control, told four ways. The page needs nothing
but itself; the picture is inside it.
"""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tasks.controlling.picture import draw_scores
from tasks.controlling.scoring import REFERENCE
from tasks.files import write_bytes, write_json

RESULTS = "controls.json"
_NUMBERS = tuple(
    name + end
    for name, ends in (
        ("", ("score", "low", "high")),
        *((name, ("", "_low", "_high")) for name in ("retained", "difference")),
    )
    for end in ends
)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}"
)


def write_results(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``controls.json``, ``.csv``, ``.png`` and ``.html`` into a folder."""
    write_json(folder / RESULTS, content)
    write_bytes(folder / "controls.csv", _csv(content["rows"]).encode())
    picture = draw_scores(content["rows"])
    write_bytes(folder / "controls.png", picture)
    write_bytes(folder / "controls.html", _html(content, picture).encode())


def render(content: Mapping[str, Any]) -> str:
    """Return the table for a terminal: score and interval of each control by prefix."""
    prefixes = _prefixes(content["rows"])
    cells = {(row["control"], row["prefix"]): _cell(row) for row in content["rows"]}
    lines = ["".join(["prefix".ljust(16), *(str(k).rjust(22) for k in prefixes)])]
    for name in _names(content):
        found = (cells.get((name, k), "-") for k in prefixes)
        lines.append("".join([name.ljust(16), *(cell.rjust(22) for cell in found)]))
    lines.append(f"score, student {content['size']}; {_intervals(content['seeds'])}")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['score']:.3f} ({row['low']:.3f}-{row['high']:.3f})"


def _difference(row: Mapping[str, Any]) -> str:
    if row["control"] == REFERENCE or "difference" not in row:
        return ""
    low, high = row["difference_low"], row["difference_high"]
    return f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


def _retained(row: Mapping[str, Any]) -> str:
    if "retained" not in row:
        return ""
    return f"{row['retained']:.0%} ({row['retained_low']:.0%} to {row['retained_high']:.0%})"


def _names(content: Mapping[str, Any]) -> list[str]:
    """Return the controls in the order in which they were scored."""
    return list(dict.fromkeys(row["control"] for row in content["rows"]))


def _prefixes(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({row["prefix"] for row in rows})


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("control", "prefix", *_NUMBERS))
    for row in rows:
        numbers = (f"{row[name]:.6g}" if name in row else "" for name in _NUMBERS)
        writer.writerow((row["control"], row["prefix"], *numbers))
    return out.getvalue()


def _intervals(seeds: Sequence[int]) -> str:
    """Say what the intervals are over: one training says nothing of what another would give."""
    if len(seeds) == 1:
        return f"95 % intervals over groups of ground, for the trainings of seed {seeds[0]} alone"
    named = ", ".join(map(str, seeds))
    return f"95 % intervals over groups of ground and the trainings of seeds {named}"


def _html(content: Mapping[str, Any], picture: bytes) -> str:
    rows = content["rows"]
    image = base64.b64encode(picture).decode()
    meanings = "".join(
        f"<li><b>{escape(name)}</b>: {escape(content['meanings'][name])}</li>"
        for name in _names(content)
    )
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Control experiments</title>',
        f"<style>{_STYLE}</style><h1>What makes a prefix usable</h1><ul>{meanings}</ul>",
        f'<img alt="Score by prefix of each control" src="data:image/png;base64,{image}">',
        "<h2>Score</h2>",
        _table(content, {(r["control"], r["prefix"]): _cell(r) for r in rows}),
        "<h2>Share of the score at its longest prefix that a control retains</h2>",
        _table(content, {(r["control"], r["prefix"]): _retained(r) for r in rows}),
        f"<h2>Difference to {REFERENCE}, in pairs</h2>",
        _table(content, {(r["control"], r["prefix"]): _difference(r) for r in rows}),
        f"<p>Student {escape(content['size'])}; {_intervals(content['seeds'])}.</p></html>",
    ]
    return "".join(parts) + "\n"


def _table(content: Mapping[str, Any], cells: Mapping[tuple[str, int], str]) -> str:
    prefixes = _prefixes(content["rows"])
    head = "".join(f"<th>{k}</th>" for k in prefixes)
    body = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{cells.get((name, k), '')}</td>" for k in prefixes)
        + "</tr>"
        for name in _names(content)
    )
    return f"<table><tr><th>prefix</th>{head}</tr>{body}</table>"
