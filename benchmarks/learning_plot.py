"""The picture of a study: every set of features with its interval, and the score by length.

The one idea: the eye compares along one axis. Left, all features on the mean over tasks; right, what
shorter embeddings and components keep.
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

Facts = dict[str, Any]
_LEARNED, _UNTRAINED, _RIVAL = "#1b6ca8", "#9aa5ad", "#c8702a"


def draw(found: Facts, path: Path) -> None:
    """Draw one row of panels for each ground that was evaluated.

    Args:
        found: ``grounds`` of the results, by name.
        path: PNG to write.
    """
    figure, axes = pyplot.subplots(
        len(found), 2, figsize=(12, 4.6 * len(found)), squeeze=False, layout="constrained"
    )
    for (name, ground), (left, right) in zip(found.items(), axes, strict=True):
        _ranking(left, ground["features"])
        _lengths(right, ground["features"])
        left.set_title(f"{name}: mean over {', '.join(ground['tasks'])}", fontsize=10)
        right.set_title(f"{name}: by length", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _ranking(axes: Axes, features: Facts) -> None:
    ranked = sorted(features.items(), key=lambda item: item[1]["mean"])
    for place, (name, facts) in enumerate(ranked):
        axes.plot([facts["low"], facts["high"]], [place, place], color=_colour(name), lw=2.5)
        axes.plot(facts["mean"], place, "o", color=_colour(name), ms=5)
    axes.set_yticks(range(len(ranked)), [name for name, _ in ranked], fontsize=8)
    axes.set_xlabel("score, mean and 95 % interval over seeds")
    axes.grid(axis="x", alpha=0.3)


def _lengths(axes: Axes, features: Facts) -> None:
    curves: dict[str, list[tuple[int, Facts]]] = {}
    for name, facts in features.items():
        label, _, length = name.rpartition(" ")
        if length.isdigit():
            curves.setdefault(label, []).append((int(length), facts))
    for label, points in curves.items():
        points.sort()
        lengths, means = [n for n, _ in points], [facts["mean"] for _, facts in points]
        reach = [
            [f["mean"] - f["low"] for _, f in points],
            [f["high"] - f["mean"] for _, f in points],
        ]
        axes.errorbar(
            lengths, means, yerr=reach, marker="o", capsize=3, color=_colour(label), label=label,
            ls="--" if label.startswith("untrained") else "-",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    ticks = sorted({n for points in curves.values() for n, _ in points})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.set_xlabel("coordinates")
    axes.set_ylabel("score")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _colour(name: str) -> str:
    if name.startswith("untrained"):
        return _UNTRAINED
    return _LEARNED if name.startswith(("teacher", "student")) else _RIVAL
