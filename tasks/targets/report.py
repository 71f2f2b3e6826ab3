"""What is recorded of the targets of a corpus: ``targets.json``, counts, MLflow, one line at the end.

``targets.json`` follows from inputs and settings alone, so a rerun gives the same bytes; what a run
cost is told apart, in the provenance and in MLflow.
"""

from collections.abc import Mapping
from typing import Any

from tasks.checkpoints import Checkpoint
from tasks.targets.address import FORMAT
from tasks.targets.checks import Rounding
from tasks.targets.entry import Entry, moments_of
from tasks.targets.spread import describe_spread

DIAGNOSTICS = "targets.json"
_IN_MANIFEST = ("cosine_min", "cosine_mean", "max_abs_error")


def describe(
    teacher: Checkpoint, preprocessing: dict[str, Any], dtype: str, entries: Mapping[str, Entry]
) -> dict[str, Any]:
    """Return the content of ``targets.json``.

    Args:
        teacher: Whose embeddings they are.
        preprocessing: From ``preprocessing_facts``.
        dtype: Number format of the targets.
        entries: What is known about each shard, by its file name.

    Returns:
        ``teacher``, ``preprocessing``, ``dtype``; ``rounding`` from float32 to that format (of each
        target the cosine with itself, of a coordinate the error); ``spread`` over all rows as stored;
        ``counts`` for the manifest; ``shards`` with their addresses and the rounding of each.
    """
    rounding = Rounding()
    for entry in entries.values():
        rounding.merge(entry.rounding)
    moments = moments_of(list(entries.values()))
    numbers, spread = rounding.facts(), describe_spread(moments)
    counts = {"targets": moments.count, "shards": len(entries)}
    return {
        "format": FORMAT,
        "teacher": teacher.facts(),
        "preprocessing": preprocessing,
        "dtype": dtype,
        "rounding": numbers,
        "spread": spread,
        "counts": counts
        | {name: numbers[name] for name in _IN_MANIFEST}
        | {"effective_rank": spread["effective_rank"]},
        "shards": [_shard(name, entry) for name, entry in entries.items()],
    }


def _shard(name: str, entry: Entry) -> dict[str, Any]:
    return {
        "name": name,
        "rows": entry.shard.rows,
        "address": entry.address.digest,
        "dpixels": entry.address.dpixels,
        "rounding": entry.rounding.facts(),
    }


def metrics_of(content: dict[str, Any], cost: dict[str, Any]) -> list[dict[str, float]]:
    """Return the rows for MLflow: numbers of each shard by its number, then those of all."""
    shards = [
        {"step": number} | {f"targets.shard.{k}": v for k, v in shard["rounding"].items()}
        for number, shard in enumerate(content["shards"])
    ]
    spread = {k: v for k, v in content["spread"].items() if k != "directions"}
    numbers = content["rounding"] | spread | cost
    return [*shards, {f"targets.{name}": float(value) for name, value in numbers.items()}]


def summary(content: dict[str, Any], cost: dict[str, Any]) -> str:
    """Return one line: what was re-used and made, how fast, and how the targets look."""
    made, reused = cost["shards_made"], cost["shards_reused"]
    rates = f" at {cost['dpixels_per_s']:,.0f} px/s" if made else ", the teacher did not run"
    again = f", {cost['shards_damaged']} of them damaged before" if cost["shards_damaged"] else ""
    spread, rounding = content["spread"], content["rounding"]
    return (
        f"targets: {made} shards made{again}{rates}, {reused} re-used; effective rank"
        f" {spread['effective_rank']:.1f} of {content['teacher']['full_dim']};"
        f" {content['dtype']}: cosine at least {rounding['cosine_min']:.8f},"
        f" error at most {rounding['max_abs_error']:.1e}"
    )
