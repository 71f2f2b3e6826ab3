"""How well the sources are mixed: is a batch's composition that of a perfect shuffle?

The one idea: Pearson's statistic compares how many rows of a batch come from each source with the
source's share of the corpus. Under a perfect shuffle without replacement its expectation is known in
closed form, (k - 1)(N - B) / (N - 1) for k sources, N rows and batches of B, so the ratio to it is 1
for the ideal, and (near) 0 or far above where batches are too even or too alike inside.

For the scatter of the ratio the variance of drawing with replacement is used: exact where a batch is a
small part of the corpus, and good enough elsewhere to tell chance from a fault.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_SOURCE_BITS = np.uint64(32)  # of a pixel id, below the number of its source


def batch_rows(total: int, block_rows: int, rows_per_shard: int) -> int:
    """Return the rows of a batch: whole blocks of one shard, about 1,024 or an eighth of the corpus."""
    return max(block_rows, min(1024, rows_per_shard, total // 8) // block_rows * block_rows)


def tally_mixing(
    pixel_id: npt.NDArray[np.uint64], sources: Counter[int], rows: int
) -> dict[str, Any]:
    """Measure the whole batches of a part of a corpus.

    Args:
        pixel_id: Identifiers in packed order.
        sources: Rows of the whole corpus by number of the source.
        rows: Rows of a batch, of ``batch_rows``.

    Returns:
        batches (how many were measured), ratio (the sum over them of statistic by expectation) and
        worst_z (of the batch farthest above its expectation, in standard deviations; None for no
        batch). Nothing is measured of a single source, or where a batch is the whole corpus.
    """
    total, kinds = sum(sources.values()), len(sources)
    source = (pixel_id >> _SOURCE_BITS).astype(np.int64)
    batches = source[: len(source) // rows * rows].reshape(-1, rows)
    if kinds < 2 or rows in (1, total) or not len(batches):
        return {"batches": 0, "ratio": 0.0, "worst_z": None}
    expected = (kinds - 1) * (total - rows) / (total - 1)
    ratios = np.array([pearson(batch, sources, total) for batch in batches]) / expected
    return {
        "batches": len(batches),
        "ratio": float(ratios.sum()),
        "worst_z": float((ratios.max() - 1) / spread(sources, rows)),
    }


def spread(sources: Counter[int], rows: int) -> float:
    """Return the standard deviation of the ratio of one perfectly shuffled batch of ``rows`` rows."""
    total, kinds = sum(sources.values()), len(sources)
    inverse = sum(total / count for count in sources.values())
    variance = 2 * (kinds - 1) + (inverse - kinds**2 - 2 * kinds + 2) / rows
    return math.sqrt(variance) / (kinds - 1)


def pearson(batch: npt.NDArray[np.int64], sources: Counter[int], total: int) -> float:
    """Return the sum over sources of (found - expected)**2 / expected; sources may be absent."""
    present, found = np.unique(batch, return_counts=True)
    counts = np.array([sources[int(number)] for number in present])
    return float((found**2 / counts).sum() * total / len(batch) - len(batch))


def merge_mixing(
    parts: Iterable[dict[str, Any]], sources: Counter[int], rows: int
) -> dict[str, Any]:
    """Join what ``tally_mixing`` found in all parts of a corpus.

    Args:
        parts: In their order.
        sources: Rows by number of the source.
        rows: Rows of a batch, as the parts were measured with.

    Returns:
        batch_rows, batches, sources, ratio (the mean; 1 is a perfect shuffle, None where nothing
        could be measured), noise (its standard deviation by chance), worst_z, and for comparison
        the ratio of source after source (``unshuffled``) and of a shuffle inside windows of 200
        sources (``windows_of_200``).
    """
    batches, ratio, worst = 0, 0.0, -math.inf
    for part in parts:
        if part["batches"]:
            batches, ratio = batches + part["batches"], ratio + part["ratio"]
            worst = max(worst, part["worst_z"])
    facts = {"batch_rows": rows, "batches": batches, "sources": len(sources)}
    if not batches:
        unknown = ("ratio", "noise", "worst_z", "unshuffled", "windows_of_200")
        return facts | dict.fromkeys(unknown)
    counts = [sources[number] for number in sorted(sources)]
    return facts | {
        "ratio": ratio / batches,
        "noise": spread(sources, rows) / math.sqrt(batches),
        "worst_z": worst,
        "unshuffled": windowed(counts, rows, 1),
        "windows_of_200": windowed(counts, rows, 200),
    }


def windowed(counts: Sequence[int], batch: int, window: int) -> float:
    """Return the expected ratio if rows were shuffled inside windows of neighbouring sources only.

    Args:
        counts: Rows of each source, in their order.
        batch: Rows of a batch; smaller windows are taken as one batch.
        window: Sources of a window.
    """
    total, kinds, found = sum(counts), len(counts), 0.0
    for start in range(0, kinds, window):
        inside = counts[start : start + window]
        rows = sum(inside)
        size = min(batch, rows)
        by_chance = (len(inside) - 1) * (rows - size) / max(rows - 1, 1)
        found += rows * (total / rows * (by_chance + size) - size)
    return found / total / ((kinds - 1) * (total - batch) / (total - 1))
