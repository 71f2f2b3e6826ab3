"""The chain of outputs as a drawing: boxes with digests, and arrows from what each was made.

The one idea: the drawing is made from the manifests, not from the graph file, so it shows what these
bytes really came from. Arrows that a longer path implies are left out.
"""

from collections.abc import Mapping
from html import escape

from tasks.manifest import Manifest

_BOX_W, _BOX_H, _GAP_X, _GAP_Y = 116, 62, 26, 14
_MARGIN = 8
_TELLING = {
    "parameters": "weights",
    "dpixels": "d-pixels",
    "targets": "targets",
    "expectations": "checks",
    "tiles": "tiles",
}


def lineage_drawing(manifests: Mapping[str, Manifest], digests: Mapping[str, str]) -> str:
    """Draw the outputs of a chain.

    Args:
        manifests: By stage; their parents may also name inputs that no stage made.
        digests: Digest of every stage and input.
    """
    parents = {name: tuple(manifest.parents) for name, manifest in manifests.items()}
    names = {*digests, *(p for above in parents.values() for p in above)}
    depth = {name: _depth(name, parents) for name in names}
    columns: dict[int, list[str]] = {}
    for name in sorted(names, key=lambda n: (depth[n], list(digests).index(n))):
        columns.setdefault(depth[name], []).append(name)
    tallest = max(len(column) for column in columns.values())
    height = 2 * _MARGIN + tallest * (_BOX_H + _GAP_Y) - _GAP_Y
    width = 2 * _MARGIN + len(columns) * (_BOX_W + _GAP_X) - _GAP_X
    place = {
        name: (_MARGIN + at * (_BOX_W + _GAP_X), _top(row, len(column), height))
        for at, column in columns.items()
        for row, name in enumerate(column)
    }
    arrows = [
        _arrow(place[up], place[down])
        for down in sorted(parents)
        for up in sorted(parents[down])
        if not _implied(up, down, parents)
    ]
    boxes = [_box(name, place[name], digests[name], manifests.get(name)) for name in sorted(names)]
    return (
        f'<svg class="lineage" viewBox="0 0 {width} {height}" role="img" '
        f'style="min-width:{width * 0.8:.0f}px"><title>Lineage of this run</title>'
        + "".join(arrows + boxes)
        + "</svg>"
    )


def _depth(name: str, parents: Mapping[str, tuple[str, ...]]) -> int:
    return 1 + max((_depth(up, parents) for up in parents.get(name, ())), default=-1)


def _implied(up: str, down: str, parents: Mapping[str, tuple[str, ...]]) -> bool:
    """Tell whether another parent of ``down`` already descends from ``up``."""
    return any(_descends(other, up, parents) for other in parents[down] if other != up)


def _descends(name: str, ancestor: str, parents: Mapping[str, tuple[str, ...]]) -> bool:
    above = parents.get(name, ())
    return ancestor in above or any(_descends(up, ancestor, parents) for up in above)


def _top(row: int, rows: int, height: int) -> float:
    used = rows * (_BOX_H + _GAP_Y) - _GAP_Y
    return (height - used) / 2 + row * (_BOX_H + _GAP_Y)


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x0, y0 = start[0] + _BOX_W, start[1] + _BOX_H / 2
    x1, y1 = end[0], end[1] + _BOX_H / 2
    bend = f"C{x0 + 14:.0f} {y0:.0f} {x1 - 14:.0f} {y1:.0f}"
    head = f"M{x1 - 6:.0f} {y1 - 4:.0f}L{x1:.0f} {y1:.0f}L{x1 - 6:.0f} {y1 + 4:.0f}"
    return f'<path class="arrow" d="M{x0:.0f} {y0:.0f}{bend} {x1:.0f} {y1:.0f}{head}"/>'


def _box(name: str, place: tuple[float, float], digest: str, manifest: Manifest | None) -> str:
    x, y = place
    kind = "box" if manifest else "box input"
    target = f"out-{name.replace('@', '-')}" if manifest else "out-ingest"
    texts = [("name", name.replace("_", " ")), ("digest", digest[:10]), ("count", _count(manifest))]
    lines = "".join(
        f'<text class="{style}" x="{x + 10:.0f}" y="{y + 19 + 17 * n:.0f}">{escape(text)}</text>'
        for n, (style, text) in enumerate(texts)
    )
    rect = f'<rect x="{x:.0f}" y="{y:.0f}" width="{_BOX_W}" height="{_BOX_H}" rx="8"/>'
    return f'<a href="#{escape(target)}" class="{kind}">{rect}{lines}</a>'


def _count(manifest: Manifest | None) -> str:
    """Say the most telling count of an output in a few characters."""
    if manifest is None:
        return "input, pinned"
    for name, words in _TELLING.items():
        if name in manifest.counts:
            return f"{short(manifest.counts[name])} {words}"
    return f"{len(manifest.files)} files"


def short(value: float) -> str:
    """Write a count in at most five characters: 950, 19.2k, 43.8M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.1f}{unit}"
    return f"{value:g}"
