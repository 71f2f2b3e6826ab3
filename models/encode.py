"""Encode d-pixels: the reference implementation of inference with buckets.

The one idea: d-pixels with equal (Sentinel-2 bucket, Sentinel-1 bucket) form batches without
padding; a sensor without observations is one zero token; a d-pixel without any is NaN. Faster ways
to the same numbers are judged against this one.

It deliberately reads and writes nothing, and quantises nothing.

Axis words: `n` d-pixels, `repr` embedding coordinates, `b` rows of one batch, `t` tokens, `band`.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from models.bands import Normalisation
from models.buckets import bucket_of, fill_positions, gather, merge_s1, normalised_s2
from models.dpixel import DPixels, Series
from models.student import Student
from models.teacher import Teacher


def encode(
    model: Student | Teacher,
    dpixels: DPixels,
    normalisation: Normalisation,
    ladder: tuple[int, ...],
    *,
    max_tokens: int = 4096,
) -> Float32[np.ndarray, "n repr"]:
    """Return one embedding for each d-pixel, from all of its observations.

    Args:
        model: a student or teacher, on any device.
        dpixels: raw observations.
        normalisation: the statistics the model was trained with, from its checkpoint.
        ladder: the bucket lengths the model is used with, from its checkpoint.
        max_tokens: tokens of both sensors in one batch, at least one row; a few thousand keep the
            activations in a CPU's cache. It changes speed and the last bits, nothing else.

    Returns:
        Embeddings in row order; NaN where a d-pixel has no observation of either sensor.

    Raises:
        ValueError: if max_tokens is below 1.

    Source: TESSERA v2, section 4, "Adaptive bucket sampling at inference".
    """
    if max_tokens < 1:
        raise ValueError(f"expected max_tokens >= 1, got {max_tokens}")
    s2, s1 = normalised_s2(dpixels, normalisation), merge_s1(dpixels, normalisation)
    s2_bucket, s1_bucket = bucket_of(s2.counts, ladder), bucket_of(s1.counts, ladder)
    out = np.full((len(dpixels), model.config.repr_dim), np.nan, dtype=np.float32)
    device = next(model.parameters()).device
    with torch.inference_mode():
        for rows, length2, length1 in _batches(s2_bucket, s1_bucket, max_tokens):
            tokens2 = _tokens(s2, rows, length2, device)
            tokens1 = _tokens(s1, rows, length1, device)
            out[rows] = model(*tokens2, *tokens1).float().cpu().numpy()
    return out


def _batches(
    s2_bucket: Int64[np.ndarray, " n"], s1_bucket: Int64[np.ndarray, " n"], max_tokens: int
) -> Iterator[tuple[Int64[np.ndarray, " b"], int, int]]:
    """Yield (rows, Sentinel-2 bucket, Sentinel-1 bucket), skipping rows without any observation."""
    for length2, length1 in np.unique(np.stack((s2_bucket, s1_bucket), axis=1), axis=0):
        if length2 == 0 and length1 == 0:
            continue
        rows = np.flatnonzero((s2_bucket == length2) & (s1_bucket == length1))
        size = max(1, max_tokens // int(length2 + length1))
        for start in range(0, len(rows), size):
            yield rows[start : start + size], int(length2), int(length1)


def _tokens(
    series: Series, rows: Int64[np.ndarray, " b"], bucket: int, device: torch.device
) -> tuple[Float[Tensor, "b t band"], Float[Tensor, "b t"]]:
    if bucket == 0:
        zero = torch.zeros(len(rows), 1, series.values.shape[1], device=device)
        return zero, zero[..., 0]
    values, doy = gather(series, rows, fill_positions(series.counts[rows], bucket))
    return torch.from_numpy(values).to(device), torch.from_numpy(doy).to(device)
