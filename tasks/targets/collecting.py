"""Gather the targets of a corpus: what the store has is taken, the rest is made.

The one idea: each shard is settled on its own, so a crash costs one shard, and two runs that want the
same targets share the work: a shard that another run is at is left for last, and then it is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.diagnostics import Moments
from models.encode import Encoder
from tasks.errors import DigestMismatch
from tasks.progress import Meter, say
from tasks.streaming.corpus import Corpus
from tasks.targets.address import Address
from tasks.targets.entry import Entry, moments_of
from tasks.targets.making import make_targets
from tasks.targets.store import TargetStore


@dataclass(frozen=True, slots=True)
class Collected:
    """The targets of all shards, in the order of the corpus, and what they cost."""

    entries: list[Entry]
    cost: dict[str, Any]
    """Of this run alone: seconds, d-pixels, rates, what was re-used or damaged."""

    @property
    def moments(self) -> Moments:
        """Mean and covariance of all targets, as stored."""
        return moments_of(self.entries)


def collect_targets(
    store: TargetStore,
    teacher: Encoder,
    corpus: Corpus,
    wanted: Sequence[tuple[Address, Path]],
    *,
    workers: int,
) -> Collected:
    """Put the targets of every shard at its path.

    Args:
        store: Where targets are kept.
        teacher: Ready to encode.
        corpus: The d-pixels.
        wanted: Address and path of each shard's targets.
        workers: Threads.

    Raises:
        TargetsUnfit, ShardDamaged, StorageError: As ``make_targets``.
    """
    collector = _Collector(store, teacher, corpus, wanted, workers)
    try:
        return collector.collect()
    finally:
        collector.meter.close()


class _Collector:
    def __init__(
        self,
        store: TargetStore,
        teacher: Encoder,
        corpus: Corpus,
        wanted: Sequence[tuple[Address, Path]],
        workers: int,
    ) -> None:
        self._store, self._teacher, self._corpus = store, teacher, corpus
        self._wanted, self._workers = wanted, workers
        self._found: dict[int, Entry] = {}
        self._made = 0
        self._damaged: set[str] = set()
        self.meter = Meter("targets", len(corpus))

    def collect(self) -> Collected:
        numbers = range(len(self._wanted))
        busy = [number for number in numbers if not self._settle(number, wait=False)]
        for number in busy:
            self._settle(number, wait=True)
        return Collected([self._found[n] for n in numbers], self._cost())

    def _settle(self, number: int, *, wait: bool) -> bool:
        """Take or make a shard's targets; return whether that was possible at this moment."""
        if self._reuse(number):
            return True
        address, _ = self._wanted[number]
        with self._store.alone(address.digest, wait=wait) as alone:
            if not alone:
                return False
            if self._reuse(number):  # another run has made it meanwhile
                return True
            self._store.put(address.digest, lambda folder: self._make(number, folder))
            self._made += 1
            if not self._take(number):
                raise DigestMismatch(
                    "targets that can be read back as they were written",
                    found="others",
                    where=str(self._store.place_of(address.digest)),
                    mend="Check the disk, or name another by TESSERA_TARGETS.",
                )
            return True

    def _reuse(self, number: int) -> bool:
        taken = self._take(number)
        if taken:
            self.meter.skip(self._found[number].shard.rows)
        return taken

    def _take(self, number: int) -> bool:
        address, path = self._wanted[number]
        try:
            entry = self._store.take(address.digest, path)
        except DigestMismatch as error:
            if address.digest not in self._damaged:
                say(f"targets: damaged, made again: {error}")
                self._damaged.add(address.digest)
            return False
        if entry is not None:
            self._found[number] = entry
        return entry is not None

    def _make(self, number: int, folder: Path) -> Entry:
        address, _ = self._wanted[number]
        return make_targets(
            *(self._teacher, self._corpus, number, folder, address),
            workers=self._workers,
            meter=self.meter,
        )

    def _cost(self) -> dict[str, Any]:
        seconds = self.meter.seconds
        return {
            "shards_made": self._made,
            "shards_reused": len(self._wanted) - self._made,
            "shards_damaged": len(self._damaged),
            "dpixels_made": self.meter.dpixels,
            "tokens_made": self.meter.tokens,
            "seconds": round(seconds, 3),
            "dpixels_per_s": round(self.meter.dpixels / seconds, 1),
        }
