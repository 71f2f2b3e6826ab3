"""A verdict as one HTML page: failures first, then every check, then how the tiles are spread.

The page is one file without scripts, fonts or links to other hosts, so it opens anywhere, also in
ten years, and equal verdicts give equal bytes. A spread is drawn as a strip: one tick a tile, the
allowed range in green. It draws only what the checks judge; the CSV files beside it have the rest.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd

from tasks.validation.verdict import Outcome, Verdict

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.pass{color:#17663a}.fail{color:#a4231a}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem .25rem 0;
vertical-align:top;border-bottom:1px solid #ddd}th{font-weight:600}td.n{text-align:right}
code{font:13px ui-monospace,monospace}svg{display:block}.scroll{overflow-x:auto}
"""
_WIDTH, _HEIGHT, _PAD = 260, 18, 6
_MOST_FAILURES = 500
_MOST_TICKS = 400


def render(verdict: Verdict, tables: Mapping[str, pd.DataFrame], maps: str = "") -> str:
    """Return the page.

    Args:
        verdict: What the suite found.
        tables: The statistics that it was held against.
        maps: Section with maps of observation counts (``tasks.validation.map_page``), as HTML.
    """
    word = "passed" if verdict.success else "failed"
    kind = "pass" if verdict.success else "fail"
    sizes = ", ".join(f"{count} {name}" for name, count in verdict.tables.items())
    parts = [
        f'<h1>Validation <span class="{kind}">{word}</span></h1>',
        f"<p>{len(verdict.checks)} expectations over {escape(sizes)}. "
        f"Suite <code>{verdict.suite[:16]}</code>.</p>",
        _failures(verdict),
        _tiles(verdict, tables),
        maps,
        _checks(verdict, tables),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Validation {word}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _failures(verdict: Verdict) -> str:
    if verdict.success:
        return ""
    rows = [
        (f.tile or "(all)", f.sensor, f.band, f.expectation, f.found, f.expected)
        for f in verdict.failures[:_MOST_FAILURES]
    ]
    more = len(verdict.failures) - len(rows)
    rest = f"<p>and {more} more in verdict.json</p>" if more else ""
    head = ("Tile", "Sensor", "Band", "Expectation", "Found", "Expected")
    return f"<h2>Failures ({len(verdict.failures)})</h2>{_table(head, rows)}{rest}"


def _tiles(verdict: Verdict, tables: Mapping[str, pd.DataFrame]) -> str:
    """List every tile with the expectations it broke."""
    if "tiles" not in tables or tables["tiles"].empty:
        return ""
    broken: dict[str, set[str]] = {}
    for failure in verdict.failures:
        broken.setdefault(failure.tile, set()).add(failure.expectation)
    keys = sorted(tables["tiles"]["tile"], key=lambda key: (key not in broken, key))
    rows = [(key, ", ".join(sorted(broken.get(key, ()))) or "all met") for key in keys]
    return f"<h2>Tiles ({len(rows)})</h2>{_table(('Tile', 'Expectations broken'), rows)}"


def _checks(verdict: Verdict, tables: Mapping[str, pd.DataFrame]) -> str:
    ordered = sorted(verdict.checks, key=lambda check: check.failed == 0)
    rows = "".join(
        f"<tr><td>{escape(check.expectation)}</td><td><code>{escape(check.expected)}</code></td>"
        f'<td class="n">{check.judged}</td>'
        f'<td class="n {"fail" if check.failed else "pass"}">{check.failed}</td>'
        f"<td>{escape(check.why)}</td><td>{_spread(check, tables)}</td></tr>"
        for check in ordered
    )
    head = ("Expectation", "Bounds", "Judged", "Failed", "Fails when", "Spread")
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f'<h2>Expectations</h2><div class="scroll"><table><tr>{titles}</tr>{rows}</table></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{titles}</tr>{body}</table></div>'


def _spread(check: Outcome, tables: Mapping[str, pd.DataFrame]) -> str:
    """Draw the values that a check judged as ticks on a line, the allowed range behind them."""
    table = tables.get(check.table)
    if table is None or check.column not in table:
        return ""
    values = np.sort(table[check.column].dropna().to_numpy(dtype=np.float64))
    values = values[:: -(-len(values) // _MOST_TICKS)] if len(values) else values
    bounds = [bound for bound in (check.low, check.high) if bound is not None]
    ends = np.array([*values[:1], *values[-1:], *bounds])
    if not len(values) or not np.isfinite(ends).all() or ends.max() == ends.min():
        return ""
    scale = (_WIDTH - 2 * _PAD) / (ends.max() - ends.min())

    def place(value: float) -> float:
        return float(_PAD + (value - ends.min()) * scale)

    start = 0.0 if check.low is None else place(check.low)
    stop = float(_WIDTH) if check.high is None else place(check.high)
    ticks = "".join(f"M{place(value):.1f} 3v{_HEIGHT - 6}" for value in values)
    label = f"{check.column}: {values[0]:.4g} to {values[-1]:.4g}"
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img"><title>{escape(label)}</title>'
        f'<rect x="{start:.1f}" width="{max(stop - start, 1.0):.1f}" height="{_HEIGHT}" '
        f'fill="#d9efe0"/><path d="{ticks}" stroke="#333" stroke-width="1"/></svg>'
    )
