"""Small maps for the report: embeddings, true colour and labels; the only importer of matplotlib.

The one idea: embeddings are shown by their first three principal components, fitted over all tiles
and years together, so equal colours mean equal embeddings everywhere on the page.

Pictures are data URIs without metadata, so equal arrays give equal bytes. Large tiles are thinned to
a screen's size before anything is computed.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave

from models.bands import S2_BANDS
from models.quantize import dequantize
from tasks.tiles import Array, Tile

LARGEST_SIDE_PX = 200
_MOST_FITTED = 20_000
_STRETCH = (2.0, 98.0)
_TRUE_COLOUR = tuple(S2_BANDS.index(band) for band in ("B04", "B03", "B02"))
_GAMMA = 1 / 1.8

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Palette:
    """Colour and name of each class code of a label."""

    colours: Mapping[int, tuple[int, int, int]]
    names: Mapping[int, str]


def thinned(array: Array) -> Array:
    """Keep every n-th row and column, so that no side is longer than a screen needs."""
    step = -(-max(array.shape[:2]) // LARGEST_SIDE_PX)
    return array[::step, ::step]


def embedding_maps(tiles: Sequence[tuple[Array, Array]]) -> list[str]:
    """Colour embedding tiles by three principal components.

    Args:
        tiles: Codes (H, W, dim) and scales (H, W) of each tile.

    Returns:
        One PNG data URI a tile; pixels without an embedding are transparent.
    """
    fields = [dequantize(thinned(codes), thinned(scales)) for codes, scales in tiles]
    return [_png(image) for image in principal_colours(fields)]


def principal_colours(fields: Sequence[npt.NDArray[np.float32]]) -> list[Image]:
    """Colour embeddings (H, W, dim) by three principal components, fitted over all of them.

    Returns:
        RGBA (H, W, 4) each; pixels without an embedding (NaN) are transparent.
    """
    valid = [np.isfinite(field[..., 0]) for field in fields]
    known = np.concatenate([f[v] for f, v in zip(fields, valid, strict=True)]).astype(np.float64)
    if len(known) < 2:
        return [np.zeros((*v.shape, 4), np.uint8) for v in valid]
    fitted = known[:: -(-len(known) // _MOST_FITTED)]
    mean, axes = fitted.mean(axis=0), _principal_axes(fitted)
    low, high = np.percentile((fitted - mean) @ axes, _STRETCH, axis=0)
    return [
        _with_alpha(_stretch((field - mean) @ axes, low, high), seen)
        for field, seen in zip(fields, valid, strict=True)
    ]


def _principal_axes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (dim, 3) axes of largest variance, each with its largest entry positive."""
    _, vectors = np.linalg.eigh(np.cov(values, rowvar=False))
    axes = vectors[:, ::-1][:, :3]
    peaks = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return np.asarray(axes * np.sign(peaks))


def true_colours(tiles: Sequence[Tile]) -> list[str]:
    """Show the median of the clear observations in red, green and blue, one stretch for all."""
    medians = [_median_of(tile) for tile in tiles]
    known = np.concatenate([m[np.isfinite(m[..., 0])] for m in medians])
    if not len(known):
        return [_png(np.zeros((*m.shape[:2], 4), np.uint8)) for m in medians]
    low, high = np.percentile(known, _STRETCH)
    return [
        _png(_with_alpha(_stretch(m, low, high, gamma=_GAMMA), np.isfinite(m[..., 0])))
        for m in medians
    ]


def _median_of(tile: Tile) -> npt.NDArray[np.float64]:
    """Return (H, W, 3) medians over the year; NaN where a pixel was never seen clear."""
    step = -(-max(tile.shape) // LARGEST_SIDE_PX)
    bands = np.asarray(tile.bands[:, ::step, ::step][..., list(_TRUE_COLOUR)])
    clear = np.asarray(tile.valid[:, ::step, ::step]) != 0
    ordered = np.sort(np.where(clear[..., None], bands.astype(np.float64), np.inf), axis=0)
    middle = np.maximum(clear.sum(axis=0) - 1, 0) // 2
    median = np.take_along_axis(ordered, middle[None, :, :, None], axis=0)[0]
    return np.asarray(np.where(np.isfinite(median), median, np.nan))


def label_map(label: Array, palette: Palette) -> str:
    """Colour a classification raster; pixels without a label are transparent."""
    small = thinned(label)
    image = np.zeros((*small.shape, 4), np.uint8)
    for code, colour in palette.colours.items():
        image[small == code] = (*colour, 255)
    return _png(image)


def _stretch(
    values: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64] | float,
    high: npt.NDArray[np.float64] | float,
    *,
    gamma: float = 1.0,
) -> Image:
    share = np.clip((values - low) / np.maximum(np.subtract(high, low), 1e-9), 0.0, 1.0)
    return np.rint(255 * np.nan_to_num(share) ** gamma).astype(np.uint8)


def _with_alpha(colours: Image, seen: npt.NDArray[np.bool_]) -> Image:
    return np.concatenate([colours, np.where(seen, 255, 0).astype(np.uint8)[..., None]], axis=-1)


def _png(image: Image) -> str:
    stream = io.BytesIO()
    imsave(stream, image, format="png", metadata={"Software": ""})
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
