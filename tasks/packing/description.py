"""What was packed, in the words of the index, of a manifest, and of one line for people.

The one idea: everything that somebody may ask of a corpus without reading it is said once, as facts,
and the other forms are made from them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tasks.packing.scatter import Scattered

TWO_VIEW_CHUNKS_BYTES = 2 * 40 * (11 + 3) * 4
"""A pixel in the public chunks of two drawn views: 40 observations a sensor, float32, with days."""

Facts = dict[str, Any]


def describe(
    names: Sequence[str], scattered: Scattered, statistics: Facts, mixing: Facts, size: int
) -> Facts:
    """Return what the index says of the corpus.

    Args:
        names: What each source is called, in the order of their numbers.
        scattered: What the first pass counted.
        statistics: Content of ``statistics.json``.
        mixing: Of ``merge_mixing``.
        size: Bytes of all shards.

    Returns:
        sources (key, rows, and rejected d-pixels by reason, in the same order), rejected (of all), observations by
        sensor, bytes a d-pixel (packed, in the public layout, as the public chunks), and mixing.
    """
    rows, none = statistics["dpixels"], Counter[str]()
    return {
        "sources": [
            {
                "key": name,
                "rows": scattered.rows[number],
                "rejected": dict(scattered.rejected.get(number, none)),
            }
            for number, name in enumerate(names)
        ],
        "rejected": scattered.reasons,
        "observations": {n: s["observations"] for n, s in statistics["sensors"].items()},
        "bytes": {
            "per_dpixel": size / rows,
            "raw_per_dpixel": scattered.raw_bytes / rows,
            "two_view_chunks_per_dpixel": TWO_VIEW_CHUNKS_BYTES,
        },
        "mixing": mixing,
    }


def flat_counts(facts: Facts) -> dict[str, float]:
    """Return the facts as the flat numbers of a manifest."""
    mixing = facts["mixing"]
    measured = {} if mixing["ratio"] is None else {"mixing_ratio": round(mixing["ratio"], 4)}
    return {
        "dpixels": sum(source["rows"] for source in facts["sources"]),
        "observations": sum(facts["observations"].values()),
        "sources": mixing["sources"],
        "bytes_per_dpixel": round(facts["bytes"]["per_dpixel"], 1),
        **measured,
        **{f"rejected_{reason}": count for reason, count in facts["rejected"].items()},
    }


def summary(facts: Facts) -> str:
    """Return the facts in one line of words."""
    counts, sizes, mixing = flat_counts(facts), facts["bytes"], facts["mixing"]
    left_out = ", ".join(
        f"{count:,} {reason.replace('_', ' ')}"
        for reason, count in facts["rejected"].items()
        if count
    )
    return (
        f"pack: {counts['dpixels']:,} d-pixels of {mixing['sources']} sources"
        f" (left out: {left_out or 'none'}), {sizes['per_dpixel']:,.0f} bytes each"
        f" (raw {sizes['raw_per_dpixel']:,.0f}); "
        + (
            "mixing not measurable"
            if mixing["ratio"] is None
            else f"mixing {mixing['ratio']:.3f} (a perfect shuffle is 1, give or take"
            f" {mixing['noise']:.3f}; source after source {mixing['unshuffled']:.0f})"
        )
    )
