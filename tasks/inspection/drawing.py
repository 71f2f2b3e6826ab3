"""Draw time series of pixels, and embeddings in three colours, into a PNG.

One column a pixel, one row a quantity: reflectance, NDVI, radar. Clear observations are joined
points; a masked one is an open grey mark, and joins nothing; where nothing clear was seen for long,
the line is broken and the time is shaded. Scales are shared, so pixels can be compared.
"""

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tasks.files import write_bytes
from tasks.inspection.series import PixelSeries, decibels, greenness, reflectance

GAP_DAYS = 15
"""A longer time without a clear observation is drawn as a gap: three revisits of the twins."""

_BANDS = {
    "B02": ("blue", "#3b7dd8"),
    "B03": ("green", "#3fa34d"),
    "B04": ("red", "#d64545"),
    "B08": ("near infrared", "#7b3fa0"),
    "B11": ("short-wave infrared", "#b8860b"),
}
_RADAR = {"VV": "#0f6e84", "VH": "#d9772b"}
_ORBITS = {"ascending": ("^", "-"), "descending": ("v", ":")}
_NDVI_COLOUR = "#2c7a3f"
_MASKED: dict[str, Any] = {
    "marker": "o",
    "mfc": "none",
    "mec": "#9a9a9a",
    "mew": 0.8,
    "ms": 4,
    "ls": "none",
}
_SHADE = "#ececec"
_INK, _PALE = "#2b2b2b", "#dddddd"
_MONTHS = "JFMAMJJASOND"
_MONTH_STARTS = np.array([1, 32, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335, 366])
_YEAR_END = 366
_RADAR_DB = (-25, 0)  # where there is nothing to show
_MOST_REFLECTANCE = 1.0
_DPI = 140
_LONGER_SIDE_IN = 7.0

Days = npt.NDArray[Any]
Numbers = npt.NDArray[np.float64]


def draw_series(path: Path, title: str, pixels: Sequence[PixelSeries]) -> None:
    """Draw the time series of pixels.

    Args:
        path: PNG file to write.
        title: What the pixels belong to.
        pixels: At least one.
    """
    width = max(7.5, 4.3 * len(pixels) + 2.4)
    figure = Figure(figsize=(width, 8.4), dpi=_DPI, layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=_INK)
    axes = figure.subplots(3, len(pixels), sharex=True, sharey="row", squeeze=False)
    for column, pixel in enumerate(pixels):
        top, middle, bottom = axes[:, column]
        top.set_title(pixel.title, loc="left", fontsize=9.5, color=_INK)
        _draw_reflectance(top, pixel)
        _draw_greenness(middle, pixel)
        _draw_radar(bottom, pixel)
        for axis in (top, middle, bottom):
            _dress(axis)
        for axis in (top, middle):
            _shade_gaps(axis, pixel.days[pixel.clear])
    _scale(axes, pixels)
    for axis, label in zip(axes[:, 0], ("reflectance", "NDVI", "backscatter, dB"), strict=True):
        axis.set_ylabel(label, color=_INK)
    for axis, handles in zip(axes[:, -1], _legends(pixels), strict=True):
        axis.legend(
            handles=handles,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            fontsize=8.5,
        )
    _save(figure, path)


def _draw_reflectance(axis: Axes, pixel: PixelSeries) -> None:
    masked = ~pixel.clear
    blue = np.minimum(reflectance(pixel, "B02"), _MOST_REFLECTANCE)
    axis.plot(pixel.days[masked], blue[masked], **_MASKED, zorder=1)
    for band, (_, colour) in _BANDS.items():
        _draw_line(axis, pixel.days[pixel.clear], reflectance(pixel, band)[pixel.clear], colour)


def _draw_greenness(axis: Axes, pixel: PixelSeries) -> None:
    masked, values = ~pixel.clear, greenness(pixel)
    axis.plot(pixel.days[masked], values[masked], **_MASKED, zorder=1)
    _draw_line(axis, pixel.days[pixel.clear], values[pixel.clear], _NDVI_COLOUR, width=1.6)


def _draw_radar(axis: Axes, pixel: PixelSeries) -> None:
    for orbit, (days, codes) in pixel.radar.items():
        marker, style = _ORBITS[orbit]
        for band, colour in _RADAR.items():
            _draw_line(axis, days, decibels(codes, band), colour, marker=marker, style=style)
    missing = [orbit for orbit in _ORBITS if orbit not in pixel.radar]
    if missing:
        text = f"no {' and no '.join(missing)} pass"
        axis.set_title(text, loc="left", fontsize=8.5, color="#777777")


def _draw_line(
    axis: Axes,
    days: Days,
    values: Numbers,
    colour: str,
    *,
    marker: str = "o",
    style: str = "-",
    width: float = 1.0,
) -> None:
    """Draw joined points; the line is broken where they are far apart."""
    broken = np.flatnonzero(np.diff(days.astype(np.int64)) > GAP_DAYS) + 1
    x = np.insert(days.astype(np.float64), broken, np.nan)
    y = np.insert(values, broken, np.nan)
    axis.plot(x, y, color=colour, lw=width, ls=style, marker=marker, ms=3, mec="white", mew=0.3)


def _shade_gaps(axis: Axes, days: Days) -> None:
    for start, end in gaps(days):
        axis.axvspan(start, end, color=_SHADE, lw=0, zorder=0)


def gaps(days: Days) -> Iterator[tuple[int, int]]:
    """Yield the first and last day of each time of more than ``GAP_DAYS`` without an observation."""
    marks = [0, *(int(day) for day in days), _YEAR_END + 1]
    for before, after in pairwise(marks):
        if after - before > GAP_DAYS:
            yield max(before, 1), min(after, _YEAR_END)


def _dress(axis: Axes) -> None:
    axis.set_xlim(1, _YEAR_END)
    axis.set_xticks(_MONTH_STARTS, minor=False, labels=[""] * len(_MONTH_STARTS))
    axis.set_xticks((_MONTH_STARTS[:-1] + _MONTH_STARTS[1:]) / 2, minor=True, labels=list(_MONTHS))
    axis.tick_params(axis="x", which="minor", length=0, labelsize=8.5, colors=_INK)
    axis.tick_params(axis="both", which="major", color=_PALE, labelsize=8.5, labelcolor=_INK)
    axis.grid(axis="y", color=_PALE, lw=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(_PALE)


def _scale(axes: Any, pixels: Sequence[PixelSeries]) -> None:
    """Let the clear observations set the scale of reflectance: clouds may leave it at the top."""
    clear = [reflectance(p, band)[p.clear] for p in pixels for band in _BANDS]
    highest = max((float(values.max()) for values in clear if len(values)), default=0.5)
    axes[0, 0].set_ylim(0, min(_MOST_REFLECTANCE, max(0.2, 1.15 * highest)))
    axes[1, 0].set_ylim(-0.25, 1.0)
    if not any(pixel.radar for pixel in pixels):
        axes[2, 0].set_ylim(*_RADAR_DB)


def _legends(pixels: Sequence[PixelSeries]) -> tuple[list[Any], list[Any], list[Any]]:
    optical: list[Any] = [
        Line2D([], [], color=colour, marker="o", ms=3, lw=1, label=f"{band} {name}")
        for band, (name, colour) in _BANDS.items()
    ]
    shade = Patch(color=_SHADE, label=f"no clear view,\nmore than {GAP_DAYS} days")
    greens: list[Any] = [Line2D([], [], color=_NDVI_COLOUR, marker="o", ms=3, label="NDVI, clear")]
    if any((~pixel.clear).any() for pixel in pixels):
        mark = {**_MASKED, "color": "none"}
        optical.append(Line2D([], [], **mark, label="masked (B02)"))
        greens.append(Line2D([], [], **mark, label="NDVI, masked"))
    orbits = [orbit for orbit in _ORBITS if any(orbit in pixel.radar for pixel in pixels)]
    radar = [
        Line2D([], [], color=colour, marker=marker, ls=style, ms=4, lw=1, label=f"{band} {orbit}")
        for orbit in orbits
        for marker, style in [_ORBITS[orbit]]
        for band, colour in _RADAR.items()
    ]
    return [*optical, shade], [*greens, shade], radar


def draw_image(path: Path, title: str, image: npt.NDArray[np.uint8], note: str) -> None:
    """Draw an image (H, W, 4) as it is, with a title and a note below."""
    height, width = image.shape[:2]
    scale = _LONGER_SIDE_IN / max(height, width)
    size = (scale * width + 0.6, scale * height + 1.0)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold", color=_INK)
    axis = figure.subplots()
    axis.imshow(image, interpolation="nearest")
    axis.set_xlabel(note, fontsize=8.5, color="#777777")
    axis.tick_params(color=_PALE, labelsize=8, labelcolor=_INK)
    for spine in axis.spines.values():
        spine.set_color(_PALE)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": ""})
    write_bytes(path, stream.getvalue())
