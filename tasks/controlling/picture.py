"""The picture of the control experiments: score by prefix, a line for each control."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

_SHIFT = 0.03  # of the prefix, so that intervals do not hide each other


def draw_scores(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw score by prefix with 95 % intervals; return a PNG, the same for equal rows."""
    names = list(dict.fromkeys(row["control"] for row in rows))
    prefixes = sorted({row["prefix"] for row in rows})
    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    for place, name in enumerate(names):
        own = sorted(
            (row for row in rows if row["control"] == name), key=lambda r: int(r["prefix"])
        )
        x = [row["prefix"] * (1 + _SHIFT * (place - len(names) / 2)) for row in own]
        y = [row["score"] for row in own]
        below = [max(0.0, row["score"] - row["low"]) for row in own]
        above = [max(0.0, row["high"] - row["score"]) for row in own]
        axes.errorbar(x, y, yerr=[below, above], label=name, marker="o", markersize=4, capsize=2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(prefixes, [str(k) for k in prefixes])
    axes.minorticks_off()
    axes.set_xlabel("prefix (coordinates)")
    axes.set_ylabel("composite downstream score")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    out = io.BytesIO()
    try:
        figure.savefig(out, format="png", dpi=130, metadata={"Software": None})
    finally:
        pyplot.close(figure)
    return out.getvalue()
