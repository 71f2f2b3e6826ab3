"""Packing: d-pixels of many lengths laid end to end in chunks of tokens, without padding.

The one idea: everything in a branch but attention and pooling acts on single tokens, so a chunk is
a plain list of tokens and its d-pixels need not have one length. Sorted by length, d-pixels of
equal length lie side by side as a run, and attention works run by run.

The second idea: the slots that a bucket fills with repeated observations need not be computed. A
repeated token has the same value and the same day, hence the same state in every layer; computing
the distinct tokens once, with the logarithm of their number of copies added to every attention
logit that looks at them, is the same softmax and the same embedding. How often each observation is
repeated depends on (count, bucket) alone, so one row of numbers serves a whole run.

It deliberately reads no values: it plans with counts only.

Axis words: `n` d-pixels, `row` those of one chunk, `token`, `slot` observations of one d-pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from models.buckets import bucket_of, resample_indices

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64, Integer


@dataclass(frozen=True, eq=False)
class Run:
    """Neighbouring d-pixels of a chunk that have equally many distinct tokens."""

    rows: slice
    """Their places among the rows of the chunk."""
    tokens: slice
    """Their tokens, d-pixel by d-pixel."""
    length: int
    """Tokens of each."""
    log_copies: Float32[np.ndarray, " slot"] | None
    """Logarithm of how often each token fills the bucket; None where that is equal for all."""

    @property
    def num_rows(self) -> int:
        """Number of d-pixels."""
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some d-pixels of a block whose tokens are computed together."""

    rows: Int64[np.ndarray, " row"]
    """Their rows in the block, in order of length."""
    runs: tuple[Run, ...]
    index: Int64[np.ndarray, " token"]
    """Where each token lies in the series of the block."""


@lru_cache(maxsize=4096)
def log_copies(n: int, bucket: int) -> Float32[np.ndarray, " slot"] | None:
    """Return the logarithm of how often each of n observations fills a slot of the bucket.

    None where all are repeated equally often, which no softmax notices.

    Raises:
        ValueError: if n or bucket is below 1.
    """
    indices = resample_indices(n, bucket)
    copies = np.bincount(indices, minlength=n)
    copies = copies[copies > 0]  # above the largest bucket some observations fill no slot
    if np.all(copies == copies[0]):
        return None
    logs = np.log(copies).astype(np.float32)
    logs.flags.writeable = False
    return logs


def distinct_positions(n: int, bucket: int) -> Int64[np.ndarray, " slot"]:
    """Return which of n observations fill the bucket at all, rising: all, unless n > bucket."""
    return np.arange(n) if n <= bucket else np.unique(resample_indices(n, bucket))


def pack(
    offsets: Int64[np.ndarray, " n_plus_1"], ladder: tuple[int, ...], max_tokens: int
) -> Iterator[Chunk]:
    """Yield chunks that together hold every d-pixel with at least one observation, once.

    Args:
        offsets: of a series (see `models.dpixel.Series`).
        ladder: rising bucket lengths.
        max_tokens: most tokens of a chunk; a longer d-pixel is a chunk of its own.

    Raises:
        ValueError: if max_tokens is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"expected max_tokens >= 1, got {max_tokens}")
    counts = np.diff(offsets)
    buckets = bucket_of(counts, ladder)
    order = np.argsort(counts, kind="stable")
    order = order[np.searchsorted(counts[order], 1) :]
    ends = np.cumsum(np.minimum(counts[order], ladder[-1]))
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + max_tokens, side="right")))
        rows = order[start:stop]
        yield _chunk(rows, counts[rows], buckets[rows], offsets[rows])
        start = stop


def _chunk(
    rows: Int64[np.ndarray, " row"],
    counts: Integer[np.ndarray, " row"],
    buckets: Int64[np.ndarray, " row"],
    starts: Int64[np.ndarray, " row"],
) -> Chunk:
    edges = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(rows)]
    runs, index, token = [], [], 0
    for first, last in pairwise(edges):
        count, bucket = int(counts[first]), int(buckets[first])
        positions = distinct_positions(count, bucket)
        tokens = slice(token, token + (last - first) * len(positions))
        runs.append(Run(slice(first, last), tokens, len(positions), log_copies(count, bucket)))
        index.append((starts[first:last, None] + positions).reshape(-1))
        token = tokens.stop
    return Chunk(rows, tuple(runs), np.concatenate(index))
