"""The released inference procedure, written from its description: baseline and parity oracle.

Eager torch in float32. Each pixel's observations of each sensor are filled up to the smallest
bucket that holds them, by index; pixels with an equal pair of buckets are stacked and run through
the model in chunks of 4,096 pixels. Plain students run on torch's own `nn.TransformerEncoder`, so
nothing of the engine that is measured or tested against it is used.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from models.bands import Normalisation
from models.buckets import bucket_of, merge_s1, normalised_s2, resample_indices
from models.dpixel import DPixels, Series
from models.student import Student
from models.teacher import Teacher

CHUNK_PIXELS = 4096


def encode_as_released(
    model: Student | Teacher,
    dpixels: DPixels,
    normalisation: Normalisation,
    ladder: tuple[int, ...],
    *,
    chunk_pixels: int = CHUNK_PIXELS,
) -> np.ndarray:
    """Return (n, repr) embeddings; NaN where a d-pixel has no observation of either sensor."""
    network = with_torch_layers(model) if isinstance(model, Student) else model.eval()
    s2, s1 = normalised_s2(dpixels, normalisation), merge_s1(dpixels, normalisation)
    out = np.full((len(dpixels), model.config.repr_dim), np.nan, np.float32)
    with torch.inference_mode():
        for rows, bucket2, bucket1 in pairs_of_buckets(s2, s1, ladder):
            for start in range(0, len(rows), chunk_pixels):
                part = rows[start : start + chunk_pixels]
                tokens = (*tokens_of(s2, part, bucket2), *tokens_of(s1, part, bucket1))
                out[part] = network(*tokens).numpy()
    return out


def pairs_of_buckets(
    s2: Series, s1: Series, ladder: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Yield (rows, Sentinel-2 bucket, Sentinel-1 bucket) of rows with any observation."""
    pairs = np.stack([bucket_of(s2.counts, ladder), bucket_of(s1.counts, ladder)], axis=1)
    for bucket2, bucket1 in np.unique(pairs, axis=0):
        if bucket2 or bucket1:
            rows = np.flatnonzero((pairs == (bucket2, bucket1)).all(axis=1))
            yield rows, int(bucket2), int(bucket1)


def tokens_of(series: Series, rows: np.ndarray, bucket: int) -> tuple[Tensor, Tensor]:
    """Return values (rows, bucket, band) and days (rows, bucket), filled up by index."""
    if bucket == 0:
        zero = torch.zeros(len(rows), 1, series.values.shape[1])
        return zero, zero[..., 0]
    starts, counts = series.offsets[rows], series.counts[rows]
    index = np.stack(
        [
            start + resample_indices(int(count), bucket)
            for start, count in zip(starts, counts, strict=True)
        ]
    )
    return torch.from_numpy(series.values[index]), torch.from_numpy(series.doy[index]).float()


def with_torch_layers(student: Student) -> nn.Module:
    """Return the same student on torch's Transformer layers; a QK-norm student as it is."""
    config = student.config
    if config.qk_norm:
        return student.eval()
    twin = Student(config)
    for branch in (twin.s2_backbone, twin.s1_backbone):
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feedforward, dropout=0.0, batch_first=True
        )
        branch.transformer_encoder = nn.TransformerEncoder(
            layer, config.layers, enable_nested_tensor=False
        )
    twin.load_state_dict(student.state_dict(), strict=True)
    return twin.eval()
