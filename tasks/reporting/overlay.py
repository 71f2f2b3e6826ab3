"""Curves of several runs over one another, as a picture.

One panel for each number, one colour for each run. It draws what it is given and judges nothing.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

Curves = Mapping[str, Mapping[str, tuple[list[int], list[float]]]]
"""Steps and values by number and by run."""

_MARKED = 40  # so few points are shown each


def draw_overlay(curves: Curves, path: Path) -> None:
    """Write the picture; its format follows from the name of the file.

    Raises:
        ValueError: The name has no format that matplotlib knows.
    """
    labels = dict.fromkeys(label for runs in curves.values() for label in runs)
    colours = {label: f"C{n}" for n, label in enumerate(labels)}
    figure, axes = pyplot.subplots(
        len(curves),
        1,
        figsize=(7.5, 3.2 * len(curves)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, (name, runs) in zip(axes[:, 0], curves.items(), strict=True):
        for label, (steps, values) in runs.items():
            marker = "o" if len(steps) <= _MARKED else None
            panel.plot(
                steps,
                values,
                label=label,
                color=colours[label],
                marker=marker,
                linewidth=1.2,
                markersize=4,
            )
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    axes[-1, 0].set_xlabel("step")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=130)
    finally:
        pyplot.close(figure)
