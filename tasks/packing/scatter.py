"""First pass: read the archive once and leave runs of d-pixels, each ordered by key.

The key of a d-pixel is a hash of (seed, pixel id), and the order of the corpus is the order of the
keys: the global shuffle that keeps neighbours out of one batch (TESSERA v2, section 4). For one seed
the hash is a bijection of the id, so no two keys are equal and the order is complete.

Memory: d-pixels are collected until they fill a sixth of the budget, and are then joined, ordered and
written while the next ones are collected. Beside the budget, up to 64 MB of the page cache are mapped:
what is being read of a tile. A kill costs the runs in progress.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.dpixel import DPixels, Series
from models.hashing import hash_u64
from tasks.ingest import Catalogue
from tasks.packing.sources import REASONS, Piece, TableSource, TileSource, open_source
from tasks.packing.spill import read_records, write_run
from tasks.progress import track
from tasks.settings.data import PackParams
from tasks.shards.taking import take_dpixels
from tasks.validation.held_out import HeldOut

Source = tuple[int, TileSource | TableSource]
"""Number of a source in its catalogue, and the source."""

_SHARE = 6  # of the budget: one run is held joined and ordered, one is being collected


@dataclass
class Collected:
    """D-pixels that wait to become a run, and what was counted while they were collected."""

    parts: list[DPixels] = field(default_factory=list)
    size: int = 0
    rows: Counter[int] = field(default_factory=Counter)
    rejected: dict[int, Counter[str]] = field(default_factory=dict)
    raw_bytes: int = 0
    following: tuple[int, int] = (0, 0)
    """Source, and piece in it, that the next run begins with."""

    def add(self, source: int, piece: Piece) -> None:
        """Take in a piece."""
        if len(piece.dpixels) or not self.parts:  # of a desert of empty ones nothing piles up
            self.parts.append(piece.dpixels)
        self.size += num_bytes(piece.dpixels)
        self.rows[source] += len(piece.dpixels)
        self.rejected.setdefault(source, Counter()).update(piece.rejected)
        self.raw_bytes += piece.raw_bytes

    def record(self) -> dict[str, Any]:
        """Return what a run's record says: what was counted, and where the next run begins."""
        return {
            "next": self.following,
            "rows_by_source": dict(self.rows),
            "rejected_by_source": self.rejected,
            "raw_bytes": self.raw_bytes,
        }


@dataclass(frozen=True, slots=True)
class Scattered:
    """What the first pass counted."""

    rows: Counter[int]
    """Accepted d-pixels by number of their source; sources without any are left out."""
    rejected: dict[int, Counter[str]]
    """Rejected ones by number of the source and reason."""
    raw_bytes: int
    """What the accepted ones take in the public layout."""

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected d-pixels of all sources by reason, those that never held too."""
        return {
            reason: sum(counts[reason] for counts in self.rejected.values()) for reason in REASONS
        }


def scatter(
    catalogue: Catalogue, spill: Path, params: PackParams, held_out: HeldOut | None = None
) -> Scattered:
    """Write the runs of an archive into the folder ``spill``, behind those that are there.

    Args:
        catalogue: The archive, as ingested.
        spill: Folder of the runs.
        params: Settings of the stage.
        held_out: Ground that is kept for evaluation; None for none.

    Returns:
        What was counted, in this and earlier attempts.

    Raises:
        DigestMismatch: A file of the archive changed since it was ingested.
        DataError: A source breaks its layout.
    """
    spill.mkdir(parents=True, exist_ok=True)
    records = read_records(spill)
    begin = records[-1]["next"] if records else (0, 0)
    total = catalogue.num_sources

    def open_number(number: int) -> TileSource | TableSource:
        return open_source(catalogue, number, held_out)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        opened = _ahead(reader, open_number, range(begin[0], total))
        shown = track(opened, label="scatter", total=total, start=begin[0], unit="sources")
        pending: Future[None] | None = None
        for number, collected in enumerate(_runs(shown, begin, params), len(records)):
            if pending:
                pending.result()
            pending = writer.submit(_write, spill, number, collected, params.seed)
        if pending:
            pending.result()
    return _count(read_records(spill))


def _ahead(
    reader: Executor, open_number: Callable[[int], TileSource | TableSource], numbers: range
) -> Iterator[Source]:
    """Open the sources in their order, verifying the next one while a source is worked on."""
    pending: deque[tuple[int, Future[TileSource | TableSource]]] = deque()
    for number in numbers:
        pending.append((number, reader.submit(open_number, number)))
        while len(pending) > (0 if number == numbers[-1] else 1):
            first, opened = pending.popleft()
            yield first, opened.result()


def _runs(
    sources: Iterable[Source], begin: tuple[int, int], params: PackParams
) -> Iterator[Collected]:
    """Yield what makes a run each, from a piece of a source on."""
    budget, collected = params.memory_mb * 10**6 // _SHARE, Collected()
    for source, opened in sources:
        for at, piece in enumerate(opened.pieces(params)):
            if (source, at) < tuple(begin):
                continue
            collected.add(source, piece)
            collected.following = (source, at + 1)
            if collected.size >= budget:
                yield collected
                collected = Collected()
    if collected.parts:
        yield collected


def _write(spill: Path, number: int, collected: Collected, seed: int) -> None:
    joined = DPixels.concatenate(collected.parts)
    collected.parts.clear()
    keys = hash_u64(seed, joined.pixel_id)
    order = np.argsort(keys)
    path = spill / f"run-{number:05d}.bin"
    write_run(path, keys[order], take_dpixels(joined, order), collected.record())


def _count(records: list[dict[str, Any]]) -> Scattered:
    rows: Counter[int] = Counter()
    rejected: dict[int, Counter[str]] = {}
    for record in records:
        rows.update({int(source): n for source, n in record["rows_by_source"].items() if n})
        for source, reasons in record["rejected_by_source"].items():
            rejected.setdefault(int(source), Counter()).update(reasons)
    return Scattered(rows, rejected, sum(record["raw_bytes"] for record in records))


def num_bytes(dpixels: DPixels) -> int:
    """Return the memory that d-pixels take."""
    sensors: tuple[Series, ...] = (dpixels.s2, dpixels.s1_asc, dpixels.s1_desc)
    return dpixels.pixel_id.nbytes + sum(
        series.values.nbytes + series.doy.nbytes + series.offsets.nbytes for series in sensors
    )
