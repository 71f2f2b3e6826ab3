"""Int8 codes of an embedding with one float32 scale a pixel, and back.

The one idea: the scale comes from the full vector and is shared by all its prefixes, so the codes
of a prefix are a prefix of the codes: a store can be cut to 16, 32 or 64 coordinates byte for byte.
A pixel without an embedding has a NaN scale, never zeros that look like data.

It deliberately knows no file format.

Axis words: `...` pixels in any shape, `repr` coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int8

LARGEST_CODE = 127
PEAK_FLOOR = 1e-12
"""Smallest max|x| a scale is computed from, so that an all-zero vector has a usable scale."""


def quantize(
    embedding: Float[np.ndarray, "*pixel repr"],
) -> tuple[Int8[np.ndarray, "*pixel repr"], Float32[np.ndarray, "*pixel"]]:
    """Code each pixel by x ~ code * scale with scale = max|x| / 127.

    Codes are rounded half to even and clipped to -127..127; -128 never occurs.

    Args:
        embedding: full-length embeddings; a row of NaN means no embedding.

    Returns:
        Codes, and scales that are NaN (with codes 0) where there is no embedding.

    Raises:
        ValueError: if a row is infinite anywhere or NaN in part: that is a fault, not "no data".
    """
    values = np.asarray(embedding, dtype=np.float32)
    missing = np.asarray(np.isnan(values).all(axis=-1))
    if not np.isfinite(values[~missing]).all():
        raise ValueError("expected finite or wholly NaN embeddings, got one partly NaN or infinite")
    values = np.where(missing[..., None], np.float32(0), values)
    peak = np.maximum(np.abs(values).max(axis=-1), np.float32(PEAK_FLOOR))
    scale = peak / np.float32(LARGEST_CODE)
    codes = np.clip(np.rint(values / scale[..., None]), -LARGEST_CODE, LARGEST_CODE)
    return codes.astype(np.int8), np.where(missing, np.float32(np.nan), scale)


def dequantize(
    codes: Int8[np.ndarray, "*pixel repr"], scale: Float32[np.ndarray, "*pixel"]
) -> Float32[np.ndarray, "*pixel repr"]:
    """Return code * scale in float32; NaN where the scale is NaN. Works on any prefix of the codes.

    Raises:
        ValueError: if there is not one scale for each pixel or codes are not int8.
    """
    if codes.dtype != np.int8 or codes.shape[:-1] != scale.shape:
        raise ValueError(
            f"expected int8 codes (*pixel, repr) and scales (*pixel), "
            f"got {codes.dtype} {codes.shape} and {scale.shape}"
        )
    return codes.astype(np.float32) * scale.astype(np.float32)[..., None]
