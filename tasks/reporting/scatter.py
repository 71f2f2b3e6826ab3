"""Scatter charts as inline SVG: one quantity against another, over the checkpoints of trainings.

The one idea: the points of a training are joined in the order of its steps, so that one sees whether
the score still rises where the loss falls; the one that was selected has a ring around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tasks.reporting.charts import HEIGHT, WIDTH, Frame, axes, labels, ticks


@dataclass(frozen=True, slots=True)
class Cloud:
    """The checkpoints of one training."""

    label: str
    style: str
    """Name of a colour class of the page, e.g. ``c1``."""
    points: tuple[tuple[float, float], ...]
    """(x, y) in the order of steps."""
    errors: tuple[float, ...]
    """Standard error of each y."""
    selected: int
    """Place of the selected checkpoint among the points."""


def scatter_chart(clouds: Sequence[Cloud], *, title: str, x_label: str, y_label: str) -> str:
    """Draw clouds over one pair of axes.

    Args:
        clouds: At least one, with at least one point.
        title: Read aloud in place of the picture.
        x_label: Quantity and unit.
        y_label: Quantity and unit.
    """
    xs = [x for cloud in clouds for x, _ in cloud.points]
    edges = [
        y + side * error
        for cloud in clouds
        for (_, y), error in zip(cloud.points, cloud.errors, strict=True)
        for side in (-1, 1)
    ]
    marks = ticks(min(xs), max(xs))
    frame = Frame.around([*marks, *xs], edges)
    names = [(cloud.points[-1][1], cloud.label, cloud.style) for cloud in clouds]
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>",
        axes(frame, marks, x_label, y_label),
        *(_draw(frame, cloud) for cloud in clouds),
        labels(frame, names),
        "</svg>",
    ]
    return "".join(parts)


def _draw(frame: Frame, cloud: Cloud) -> str:
    places = [(frame.x(x), frame.y(y)) for x, y in cloud.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path class="path {cloud.style}" d="M{path}"/>']
    for (x, y), (_, value), error in zip(places, cloud.points, cloud.errors, strict=True):
        whisker = f"M{x:.1f} {frame.y(value - error):.1f}V{frame.y(value + error):.1f}"
        parts.append(f'<path class="whisker {cloud.style}" d="{whisker}"/>')
        parts.append(f'<circle class="dot {cloud.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>')
    x, y = places[cloud.selected]
    parts.append(f'<circle class="ring {cloud.style}" cx="{x:.1f}" cy="{y:.1f}" r="8"/>')
    return "".join(parts)
