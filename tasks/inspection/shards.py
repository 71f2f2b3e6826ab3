"""Shards of d-pixels or of targets, one or a whole corpus, read block by block.

A corpus may be larger than any memory and any patience, so at most 64 blocks are read, spread evenly;
how many there are is said beside the numbers.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import DigestMismatch
from tasks.files import sha256_of
from tasks.inspection.finding import Finding, Row, size_text
from tasks.inspection.shard_files import (
    DPIXELS,
    KINDS,
    TARGETS,
    batch_of,
    batches_of,
    folder_of,
    is_corpus,
    kind_of,
    open_shard,
    read_index,
)
from tasks.inspection.tally import BlockTally
from tasks.shards.index import Index
from tasks.shards.rows import decode_dpixels, decode_targets

CORPUS = "folder of shards"
MOST_BLOCKS = 64


def describe_shard(path: Path, *, verify: bool) -> Finding:
    """Look into one shard.

    Raises:
        DataError: It cannot be read.
        DigestMismatch: With ``verify``: it has other bytes than its index says.
    """
    reader = open_shard(path)
    kind = kind_of(reader.schema) or TARGETS
    num, chosen = reader.num_record_batches, spread(reader.num_record_batches)
    facts: Row = {"size": size_text(path.stat().st_size), "blocks": num}
    facts["blocks looked at"] = len(chosen)
    index = read_index(path.parent) if is_corpus(path.parent) else None
    if index is not None:
        recorded = {entry.name: entry for entry in index.shards}.get(path.name)
        facts["rows"] = recorded.rows if recorded else None
        facts["sha256"] = recorded.sha256 if recorded else None
        if verify and recorded:
            _verify(path, recorded.sha256)
    facts["verified"] = verify or "no, only read; --verify hashes the file"
    batches = (batch_of(path, reader, number) for number in chosen)
    found, tables = _measure(kind, batches, index)
    return Finding(kind, str(path), facts | found, tables)


def describe_corpus(path: Path, *, verify: bool) -> Finding:
    """Look into all shards of a folder.

    Raises:
        DataError: The index or a shard cannot be read.
        DigestMismatch: With ``verify``: a shard has other bytes than the index says.
    """
    folder = folder_of(path)
    index = read_index(folder)
    for entry in index.shards if verify else ():
        _verify(folder / Path(entry.name).name, entry.sha256)
    chosen = spread(index.num_blocks)
    facts: Row = {
        "kind": index.kind,
        "rows": index.rows,
        "shards": len(index.shards),
        "size": size_text(sum(entry.size for entry in index.shards)),
        "blocks": index.num_blocks,
        "rows of a block": index.block_rows,
        "blocks looked at": len(chosen),
        "verified": verify or "no, only read; --verify hashes every shard",
    }
    facts |= {name: value for name, value in index.facts.items() if name != "sources"}
    kind = KINDS.get(index.kind, TARGETS)
    found, tables = _measure(kind, batches_of(folder, index, chosen), index)
    shards = [
        {
            "shard": entry.name,
            "rows": entry.rows,
            "size": size_text(entry.size),
            "sha256": entry.sha256,
        }
        for entry in index.shards
    ]
    return Finding(CORPUS, str(path), facts | found, tables | {"Shards": shards})


def spread(count: int) -> list[int]:
    """Return at most ``MOST_BLOCKS`` of so many blocks, evenly spread, first and last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, MOST_BLOCKS)).astype(int).tolist()))


def _measure(
    kind: str, batches: Iterator[Any], index: Index | None
) -> tuple[Row, dict[str, list[Row]]]:
    return _measure_dpixels(batches, index) if kind == DPIXELS else _measure_targets(batches)


def _measure_dpixels(
    batches: Iterator[Any], index: Index | None
) -> tuple[Row, dict[str, list[Row]]]:
    tally, sources = BlockTally(), Counter[int]()
    for batch in batches:
        dpixels = decode_dpixels(batch)
        tally.add(dpixels)
        owner, rows = np.unique(dpixels.pixel_id >> np.uint64(32), return_counts=True)
        sources.update(dict(zip(owner.tolist(), rows.tolist(), strict=True)))
    names = _source_names(index)
    rows_of = [
        {"source": names.get(number, str(number)), "rows looked at": rows}
        for number, rows in sorted(sources.items())
    ]
    facts = {"rows looked at": tally.rows, "without any observation": tally.unobserved}
    return facts | {"sources": len(sources)}, tally.tables() | {"Sources": rows_of}


def source_name(path: Path, number: int) -> str:
    """Return the key of a tile or table of a shard or corpus; its number where it is not known."""
    folder = folder_of(path)
    names = _source_names(read_index(folder) if is_corpus(folder) else None)
    return names.get(number, f"source {number}")


def _source_names(index: Index | None) -> dict[int, str]:
    """Return the name of each source by its number, the upper half of ``pixel_id``."""
    listed = index.facts.get("sources") if index else None
    if not isinstance(listed, list):
        return {}
    return {at: str(one["key"]) for at, one in enumerate(listed) if "key" in one}


def _measure_targets(batches: Iterator[Any]) -> tuple[Row, dict[str, list[Row]]]:
    rows = empty = num = width = 0
    low, high, total = np.inf, -np.inf, 0.0
    for batch in batches:
        targets: npt.NDArray[Any] = decode_targets(batch)[1].astype(np.float32)
        known = targets[np.isfinite(targets[:, 0])]
        rows, empty, width = (
            rows + len(targets),
            empty + len(targets) - len(known),
            targets.shape[1],
        )
        if known.size:
            low, high = min(low, float(known.min())), max(high, float(known.max()))
            total, num = total + float(known.sum(dtype=np.float64)), num + known.size
    facts: Row = {"rows looked at": rows, "coordinates": width, "without an embedding": empty}
    if num:
        facts |= {"lowest": low, "mean": total / num, "highest": high}
    return facts, {}


def _verify(path: Path, digest: str) -> None:
    found = sha256_of(path) if path.is_file() else "no such file"
    if found != digest:
        raise DigestMismatch(
            f"sha256 {digest[:12]}",
            found=found[:12],
            where=str(path),
            mend="Restore it (dvc checkout) or make it again.",
        )
