"""Maps of observation counts for the page of a verdict: small pictures, each with its own scale.

Pictures are PNGs with a palette, encoded here: nothing but a list of colours is needed. The colours
are viridis, which rises in lightness and is told apart by all kinds of colour vision; white is no
observation at all. A scale runs from the fewest to the most that a pixel of the picture has, so that
a stripe of one observation less is seen; tiles are compared by the numbers. Large tiles are averaged,
not thinned: a narrow stripe grows faint and stays.
"""

import base64
import struct
import zlib
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.validation.observations import LAYERS, ObservationMaps

_LARGEST_SIDE_PX = 200
_SMALLEST_SHOWN_PX = 120
_MOST_TILES = 24
_VIRIDIS = "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725"
_NUM_COLOURS = 256

Floats = npt.NDArray[np.float64]
Colours = npt.NDArray[np.uint8]

STYLE = """
.maps{display:flex;flex-wrap:wrap;gap:1.2rem 2rem;margin-top:1rem}.maps figure{margin:0}
.maps figcaption{font-size:13px;margin-bottom:.3rem}.maps .row{display:flex;gap:.5rem}
.maps img{image-rendering:pixelated;border:1px solid #999;display:block}
.maps .row>div{font-size:12px;line-height:1.5;color:#555}.scale{display:flex;gap:.3rem;
align-items:center}.scale i{flex:1;height:.5rem;border:1px solid #999}
"""


def render_maps(maps: ObservationMaps, tiles: pd.DataFrame) -> str:
    """Return the section of the page: the tiles with most thin pixels first.

    Args:
        maps: The maps, written.
        tiles: Table ``tiles`` with ``thin_s2_share`` and ``thin_s1_share``.
    """
    known = tiles.dropna(subset=["thin_s2_share"]) if "thin_s2_share" in tiles else tiles[:0]
    if known.empty:
        return ""
    worst = known[["thin_s2_share", "thin_s1_share"]].max(axis=1)
    ordered = known.assign(worst=worst).sort_values(["worst", "tile"], ascending=[False, True])
    shown = ordered.head(_MOST_TILES)
    pictures = [_averaged(np.load(maps.path(key), mmap_mode="r")) for key in shown["tile"]]
    figures = "".join(
        _figure(row, picture) for row, picture in zip(shown.itertuples(), pictures, strict=True)
    )
    left = len(known) - len(shown)
    more = f"<p>{left} more tiles: observations/&lt;tile&gt;.npy</p>" if left else ""
    return (
        f"<style>{STYLE}</style><h2>Observations per pixel</h2>"
        f"<p>Valid observations in the year. Thin pixels have fewer than {maps.min_s2} optical or "
        f"{maps.min_s1} radar ones (both orbits together) and are left out by the packer. Tiles "
        f"with most thin pixels first; white has no observation at all.</p>"
        f'<div class="maps">{figures}</div>{more}'
    )


def _figure(row: Any, picture: Floats) -> str:
    height, width = picture.shape[:2]
    factor = max(1, round(_SMALLEST_SHOWN_PX / max(height, width)))
    size = f'width="{width * factor}" height="{height * factor}"'
    cells = []
    for layer, name in enumerate(LAYERS):
        counts = picture[..., layer]
        seen = counts[counts > 0]
        low, high = (seen.min(), seen.max()) if len(seen) else (0.0, 0.0)
        source = _data_uri(_coloured(counts, low, high))
        cells.append(
            f'<div><img src="{source}" {size} alt="{escape(row.tile)}, {name}: {low:.0f} to '
            f'{high:.0f}">{name}{_scale(low, high)}</div>'
        )
    thin = f"thin: {row.thin_s2_share:.1%} optical, {row.thin_s1_share:.1%} radar"
    return (
        f"<figure><figcaption><b>{escape(row.tile)}</b><br>{thin}</figcaption>"
        f'<div class="row">{"".join(cells)}</div></figure>'
    )


def _scale(low: float, high: float) -> str:
    stops = ",".join(f"#{colour}" for colour in _VIRIDIS.split())
    if low == high:
        return f'<div class="scale">{f"{high:.0f}" if high else "none"}</div>'
    bar = f'<i style="background:linear-gradient(to right,{stops})"></i>'
    return f'<div class="scale">{low:.0f}{bar}{high:.0f}</div>'


def _averaged(counts: npt.NDArray[Any]) -> Floats:
    """Average squares of pixels, so that no side is longer than a screen needs."""
    step = -(-max(counts.shape[:2]) // _LARGEST_SIDE_PX)
    rows, columns = (np.arange(0, size, step) for size in counts.shape[:2])
    sums = np.add.reduceat(counts.astype(np.float64), rows, axis=0)
    sums = np.add.reduceat(sums, columns, axis=1)
    heights, widths = (
        np.diff([*starts, size])
        for starts, size in zip((rows, columns), counts.shape[:2], strict=True)
    )
    return np.asarray(sums / np.multiply.outer(heights, widths)[..., None])


def _coloured(counts: Floats, low: float, high: float) -> Colours:
    """Return palette numbers: 0 for no observation, then rising from ``low`` to ``high``."""
    share = np.clip(1 - (high - counts) / max(high - low, 1.0), 0.0, 1.0)  # whole counts at least
    ramp = 1 + np.rint(share * (_NUM_COLOURS - 2))
    return np.asarray(np.where(counts > 0, ramp, 0), dtype=np.uint8)


def _palette() -> bytes:
    stops = np.array([list(bytes.fromhex(colour)) for colour in _VIRIDIS.split()], np.float64)
    places = np.linspace(0, len(stops) - 1, _NUM_COLOURS - 1)
    ramp = np.stack([np.interp(places, np.arange(len(stops)), c) for c in stops.T], axis=-1)
    return bytes([255, 255, 255, *np.rint(ramp).astype(int).ravel().tolist()])


def _data_uri(image: Colours) -> str:
    """Encode (H, W) palette numbers as a PNG data URI, without metadata."""
    height, width = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image], axis=1)  # 0: no row filter
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),  # 8 bits, palette
        b"PLTE": _palette(),
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
    return "data:image/png;base64," + base64.b64encode(content).decode()
