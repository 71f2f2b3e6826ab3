"""Line charts as inline SVG that follow the page's light or dark colours.

The one idea: a chart is text. Equal numbers give equal bytes, it is crisp at any zoom, it can be
read aloud (title and description), and colours are classes that the page's style sheet defines.

It deliberately draws one kind of chart; ``tasks.reporting.scatter`` draws the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 96, 14, 46
_MOST_POINTS = 240
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    label: str
    style: str
    """Name of a colour class of the page, e.g. ``c1``."""
    points: tuple[tuple[float, float], ...]
    """(x, y), x rising; a single point is drawn across the whole chart as a level."""
    spans: tuple[tuple[float, float], ...] = ()
    """(low, high) of each point, or nothing."""


def line_chart(
    lines: Sequence[Line], *, title: str, x_label: str, y_label: str, log_x: bool = False
) -> str:
    """Draw lines over one pair of axes.

    Args:
        lines: At least one line with at least one finite point.
        title: Read aloud in place of the picture.
        x_label: Quantity and unit.
        y_label: Quantity and unit.
        log_x: Space x by powers of two, and mark the points of the lines as ticks.
    """
    curves = [line for line in lines if len(line.points) > 1]
    xs = sorted({x for line in curves for x, _ in line.points}) or [0.0, 1.0]
    ys = [y for line in lines for _, y in line.points]
    ys += [edge for line in lines for span in line.spans for edge in span]
    frame = Frame.around(xs, ys, log_x=log_x)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>",
        axes(frame, xs if log_x else ticks(frame.x0, frame.x1), x_label, y_label),
        *(_draw(frame, line, place, len(curves)) for place, line in enumerate(lines)),
        labels(frame, [(line.points[-1][1], line.label, line.style) for line in lines]),
        "</svg>",
    ]
    return "".join(parts)


def thin(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Average neighbouring points of a long curve down to what a screen can show."""
    step = max(1, math.ceil(len(points) / _MOST_POINTS))
    groups = [points[start : start + step] for start in range(0, len(points), step)]
    return tuple((sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups)


@dataclass(frozen=True, slots=True)
class Frame:
    """Data ranges and their places on the paper."""

    x0: float
    x1: float
    y0: float
    y1: float
    log_x: bool

    @staticmethod
    def around(xs: Sequence[float], ys: Sequence[float], *, log_x: bool = False) -> "Frame":
        """Fit a frame around values; round numbers above and below them are inside."""
        marks = ticks(min(ys), max(ys))
        return Frame(min(xs), max(xs), min(*marks, *ys), max(*marks, *ys), log_x)

    def x(self, value: float) -> float:
        """Return where a value lies from the left."""
        scale = math.log2 if self.log_x else float
        low, high = scale(self.x0), scale(self.x1)
        share = (scale(value) - low) / (high - low) if high > low else 0.5
        inset = 18 if self.log_x else 0  # room for the marks at both ends
        return _LEFT + inset + share * (WIDTH - _LEFT - _RIGHT - 2 * inset)

    def y(self, value: float) -> float:
        """Return where a value lies from the top."""
        share = (value - self.y0) / (self.y1 - self.y0) if self.y1 > self.y0 else 0.5
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers that span a range."""
    raw = (high - low or abs(high) or 1.0) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]


def axes(frame: Frame, x_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    """Draw grid, numbers and names of both axes."""
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    for tick in ticks(frame.y0, frame.y1):
        if not frame.y0 <= tick <= frame.y1:
            continue
        y = frame.y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" class="end">{tick:g}</text>')
    for tick in x_ticks:
        if frame.x0 <= tick <= frame.x1:
            parts.append(
                f'<text x="{frame.x(tick):.1f}" y="{bottom + 18}" class="mid">{tick:g}</text>'
            )
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 8}" class="mid">{escape(x_label)}</text>')
    turn = f'transform="translate(13 {(_TOP + bottom) / 2:.1f}) rotate(-90)"'
    parts.append(f'<text {turn} class="mid">{escape(y_label)}</text>')
    return "".join(parts)


def _draw(frame: Frame, line: Line, place: int, num_curves: int) -> str:
    if len(line.points) == 1:
        y = frame.y(line.points[0][1])
        return f'<path class="level {line.style}" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'
    shift = (place - (num_curves - 1) / 2) * 5 if line.spans else 0.0
    places = [(frame.x(x) + shift, frame.y(y)) for x, y in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path class="line {line.style}" d="M{path}"/>']
    for (x, y), (low, high) in zip(places, line.spans, strict=False):
        whisker = f"M{x:.1f} {frame.y(low):.1f}V{frame.y(high):.1f}"
        parts.append(f'<path class="whisker {line.style}" d="{whisker}"/>')
        parts.append(f'<circle class="dot {line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>')
    return "".join(parts)


def labels(frame: Frame, lines: Sequence[tuple[float, str, str]]) -> str:
    """Write (height, label, style) at the right edge, moved apart where they would overlap."""
    wanted = sorted((frame.y(y), label, style) for y, label, style in lines)
    parts, floor = [], float(_TOP)
    room = HEIGHT - _BOTTOM - 15 * len(wanted)
    for number, (y, label, style) in enumerate(wanted):
        at = max(floor, min(y, room + 15 * (number + 1)))
        floor = at + 15
        x = WIDTH - _RIGHT + 8
        parts.append(f'<text x="{x}" y="{at + 4:.1f}" class="name {style}">{escape(label)}</text>')
    return "".join(parts)
