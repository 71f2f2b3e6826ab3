"""Find held-out labels that training has seen, from what was trained on and nothing else.

The one idea: the packed pixel ids say which pixels training reads, whatever was intended. They are
turned into ground and held against the labels, so a fault of the packer, a wrong setting, or a corpus
of another time is found alike. Three kinds are told apart: the label's pixel itself; its block, in the
same year; and its block, in other years only.

It deliberately knows nothing of how a corpus is stored: it is handed pixel ids. Folds within the
labels are another matter (``tasks.evaluation``).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.errors import DataError
from tasks.validation.checks import Check
from tasks.validation.expectations import judge
from tasks.validation.held_out import Years
from tasks.validation.label_places import UNKNOWN_YEAR, Places, placed
from tasks.validation.places import LEAST_BLOCK_M, Grid, Keys, Numbers, blocks_of, moved
from tasks.validation.verdict import Verdict

KINDS = ("same_pixel", "same_block", "other_year")
"""A label counts once, as the first of these that holds."""

LEAKS = "labels"
_SOURCE = np.uint64(32)  # the source's number is in the upper half of a pixel id
_ROW = np.uint64((1 << 32) - 1)
_BATCH = 1 << 22  # pixel ids that are sorted together

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Raster:
    """A tile that training may have read."""

    name: str
    """Its key."""
    year: int
    """Calendar year, 0 unknown."""
    grid: Grid
    """Where its pixels lie."""
    shape: tuple[int, int]
    """Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The part of one tile, or of one table and year, that training reads."""

    source: Raster | Places
    rows: npt.NDArray[np.uint32]
    """Rows that were packed, rising: pixels of a tile, or positions in ``Places``."""

    def blocks(self, block_m: int) -> Keys:
        """Return the different blocks of these pixels, rising."""
        if isinstance(self.source, Places):
            return np.unique(placed(self.source, block_m)[self.rows])
        parts = self.source.grid.blocks(self.rows, self.source.shape[1], block_m)
        return np.unique(np.concatenate([np.unique(blocks) for blocks in parts]))

    def holds(self, crs: str, x: Numbers, y: Numbers) -> Flags:
        """Return which places lie in one of these pixels; points are pixels of the global grid."""
        if isinstance(self.source, Places):
            cells = placed(self.source, LEAST_BLOCK_M)[self.rows]
            return np.isin(blocks_of(crs, x, y, LEAST_BLOCK_M), cells)
        height, width = self.source.shape
        rows, columns = self.source.grid.pixels(*moved(crs, x, y, self.source.grid.crs))
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return inside & np.isin(rows * width + columns, self.rows)


def collect(
    sources: Sequence[Raster | Sequence[Places]], ids: Iterable[npt.NDArray[np.uint64]]
) -> list[Trained]:
    """Return what of each source was packed.

    Args:
        sources: Tiles, and tables as their years, in the order that numbers their pixel ids.
        ids: Pixel ids of the corpus, in any order and in parts.

    Raises:
        DataError: An id is of no source, or of no place in it.
    """
    packed: dict[int, list[npt.NDArray[np.uint32]]] = defaultdict(list)
    for part in _batches(ids):
        owners = (part >> _SOURCE).astype(np.int64)
        order = np.argsort(owners, kind="stable")
        numbers, starts = np.unique(owners[order], return_index=True)
        split = np.split((part[order] & _ROW).astype(np.uint32), starts)[1:]
        for number, some in zip(numbers.tolist(), split, strict=True):
            packed[number].append(some)
    trained: list[Trained] = []
    for number in sorted(packed):
        rows = np.sort(np.concatenate(packed.pop(number)))
        trained += _parts(sources[number] if number < len(sources) else (), rows, number)
    return trained


def _parts(
    source: Raster | Sequence[Places], rows: npt.NDArray[np.uint32], number: int
) -> list[Trained]:
    """Return what was packed of one source; a row without a place would be ground nobody checks."""
    if isinstance(source, Raster):
        parts = [Trained(source, rows)]
        known = rows < source.shape[0] * source.shape[1]
    else:
        found = ((year, np.flatnonzero(np.isin(year.rows, rows))) for year in source)
        parts = [Trained(year, at.astype(np.uint32)) for year, at in found if len(at)]
        known = np.isin(rows, np.concatenate([np.zeros(0, np.int64), *(y.rows for y in source)]))
    if not known.all():
        raise DataError(
            "d-pixels of the archive's sources alone",
            found=f"row {rows[~known][0]} of source {number}",
            where="pixel ids of the corpus",
            mend="Pack the archive again: dvc repro pack",
        )
    return parts


def _batches(
    ids: Iterable[npt.NDArray[np.uint64]],
) -> Iterator[npt.NDArray[np.uint64]]:
    """Join short parts: a block of a shuffled corpus has hardly two pixels of one source."""
    waiting, size = [], 0
    for part in ids:
        waiting.append(part)
        size += len(part)
        if size >= _BATCH:
            yield np.concatenate(waiting)
            waiting, size = [], 0
    if waiting:
        yield np.concatenate(waiting)


def find_leaks(trained: Sequence[Trained], labels: Iterable[Places], block_m: int) -> pd.DataFrame:
    """Hold labels against what training reads.

    Args:
        trained: Of ``collect``.
        labels: Held-out labels.
        block_m: Side of a block in metres.

    Returns:
        One row a source of labels and year: tile (the source), sensor and band (empty), year,
        labels, the number of each of ``KINDS``, blocks (that leak), first (the first leak in words).
    """
    blocks = [part.blocks(block_m) for part in trained]
    owners = np.repeat(np.arange(len(trained)), [len(b) for b in blocks])
    names = np.concatenate([np.zeros(0, np.int64), *blocks])
    order = np.argsort(names, kind="stable")
    index = _Index(trained, names[order], owners[order])
    rows = [index.row(part, placed(part, block_m)) for part in labels]
    return pd.DataFrame(rows)


@dataclass(frozen=True, slots=True)
class _Index:
    """Which parts of the training ground reach into which block."""

    trained: Sequence[Trained]
    names: Keys
    owners: Keys

    def row(self, part: Places, blocks: Keys) -> dict[str, Any]:
        """Count the leaks of labels that lie in these blocks."""
        kinds, owner = np.full(len(blocks), len(KINDS)), np.full(len(blocks), -1)
        for number, here in self._meeting(blocks):
            year = self.trained[number].source.year
            same = part.year == year or UNKNOWN_YEAR in (part.year, year)
            found = np.full(len(here), KINDS.index("same_block" if same else "other_year"))
            if same:
                found[self.trained[number].holds(part.crs, part.x[here], part.y[here])] = 0
            better = found < kinds[here]
            kinds[here[better]], owner[here[better]] = found[better], number
        counts = np.bincount(kinds, minlength=len(KINDS) + 1)
        leaking = np.flatnonzero(kinds < len(KINDS))
        return {
            **{"tile": part.source, "sensor": "", "band": "", "year": part.year},
            "labels": len(blocks),
            **{kind: int(count) for kind, count in zip(KINDS, counts[:-1], strict=True)},
            "blocks": len(np.unique(blocks[leaking])),
            "first": self._words(part, leaking, owner),
        }

    def _meeting(self, blocks: Keys) -> Iterator[tuple[int, Keys]]:
        """Yield each part of the training ground with the places in blocks that it reaches into."""
        present, at = np.unique(blocks, return_inverse=True)
        shared = np.flatnonzero(np.isin(self.names, present))
        for number in np.unique(self.owners[shared]).tolist():
            touched = self.names[shared[self.owners[shared] == number]]
            yield number, np.flatnonzero(np.isin(present, touched)[at])

    def _words(self, part: Places, leaking: Keys, owner: Keys) -> str:
        if not len(leaking):
            return ""
        source = self.trained[int(owner[leaking[0]])].source
        name = source.name if isinstance(source, Raster) else source.source
        return f"row {part.rows[leaking[0]]}, trained on in {name} {source.year or 'of no year'}"


def leak_verdict(table: pd.DataFrame, years: Years) -> Verdict:
    """Judge a table of ``find_leaks``: no label may leak.

    Args:
        table: What was found.
        years: With ``same``, ground that is trained on in other years is no leak.
    """
    why = {
        "same_pixel": "the label's own pixel is trained on",
        "same_block": "its neighbours are trained on",
        "other_year": "the same place is trained on in another year",
    }
    judged = KINDS if years == "any" else KINDS[:2]
    checks = [Check(f"no_{k}", LEAKS, k, 0, 0, why[k], "first") for k in judged]
    return judge({LEAKS: table}, checks, {LEAKS: 1})
