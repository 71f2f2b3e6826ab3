"""The sources of a corpus, tiles and point tables alike, as pieces of accepted d-pixels.

The one idea: whatever is left out is counted, under the first reason that holds: outside the
region, held out, no observation at all, too few optical ones, too few radar ones. A piece is a few
megabytes, so that its observations are still in the processor's cache when they are gathered.

It deliberately does not choose an order; that is ``tasks.packing.scatter``.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.dpixel import DPixels
from tasks.ingest import Catalogue
from tasks.points import FOLDER, open_points
from tasks.settings.data import PackParams
from tasks.tiles import Tile, dpixels_of, read_tile, release
from tasks.validation.held_out import HeldOut

Flags = npt.NDArray[np.bool_]

S2_DATE_BYTES = 10 * 2 + 1 + 2
"""A pixel of one optical date in the public layout: ten bands, its validity, its day."""
S1_DATE_BYTES = 2 * 2 + 2
"""A pixel of one radar date: two polarisations and its day."""

REASONS = ("outside", "held_out", "empty", "few_optical", "few_radar")
"""Why a d-pixel is left out; the first that holds is the one that counts."""

_PIECE_BYTES = 4 << 20
_MAPPED_PIECES = 8  # neighbouring pieces share pages, so these are given back together


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a source."""

    dpixels: DPixels
    """What is accepted, in the order of the source."""
    rejected: Counter[str]
    """How many d-pixels are not, by reason."""
    raw_bytes: int
    """What the accepted ones take in the public layout, cloudy dates included."""


@dataclass(frozen=True, slots=True)
class TileSource:
    """A tile, opened and verified."""

    tile: Tile
    first_id: int
    held: Flags
    """(H x W,): pixels that are kept for evaluation."""

    def pieces(self, params: PackParams) -> Iterator[Piece]:
        """Yield the tile's pixels, row-major, in pieces."""
        dates = sum(len(doys) for _, doys in self.tile.radar.values())
        raw = S2_DATE_BYTES * len(self.tile.doys) + S1_DATE_BYTES * dates
        region, step = self.tile.region.reshape(-1), max(1, _PIECE_BYTES // max(1, raw))
        for number, start in enumerate(range(0, len(region), step), 1):
            inside, held = region[start : start + step], self.held[start : start + step]
            wanted = start + np.flatnonzero(inside & ~held)
            accepted, rejected = accept(dpixels_of(self.tile, wanted, self.first_id), params)
            rejected["outside"] = int((~inside).sum())
            rejected["held_out"] = int((inside & held).sum())
            yield Piece(accepted, rejected, raw * len(accepted))
            if number % _MAPPED_PIECES == 0:
                release(self.tile)


@dataclass(frozen=True, slots=True)
class TableSource:
    """A point table, verified; its rows hold no cloudy dates."""

    path: Path
    first_id: int
    held: Flags
    """(rows,): rows that are kept for evaluation."""

    def pieces(self, params: PackParams) -> Iterator[Piece]:
        """Yield the table's rows in pieces."""
        for rows, block in open_points(self.path).blocks():
            ids = block.pixel_id + np.uint64(self.first_id)
            dpixels = DPixels(ids, block.s2, block.s1_asc, block.s1_desc)
            held = self.held[rows]
            accepted, rejected = accept(_chosen(dpixels, ~held), params)
            rejected["held_out"] = int(held.sum())
            radar = int(accepted.s1_counts.sum())
            raw = S2_DATE_BYTES * len(accepted.s2.doy) + S1_DATE_BYTES * radar
            yield Piece(accepted, rejected, raw)


def source_keys(catalogue: Catalogue) -> list[str]:
    """Return what each source is called: a tile by its key, a table by its path in the archive."""
    return [
        *(entry.key for entry in catalogue.entries),
        *(f"{FOLDER}/{entry.name}" for entry in catalogue.tables),
    ]


def open_source(
    catalogue: Catalogue, index: int, held_out: HeldOut | None
) -> TileSource | TableSource:
    """Open a source, tiles first, after comparing its bytes with the catalogue.

    Args:
        catalogue: The archive.
        index: Number of the source.
        held_out: Ground that is kept for evaluation; None for none.

    Raises:
        DigestMismatch: A file changed since the archive was ingested.
        DataError: A file breaks its layout, or does not say where it is though ground is held out.
    """
    first_id = catalogue.first_pixel_id(index)
    if index < len(catalogue):
        tile = read_tile(catalogue.tile(index))
        held = held_out.covers(tile).reshape(-1) if held_out else np.zeros(tile.region.size, bool)
        return TileSource(tile, first_id, held)
    number = index - len(catalogue)
    path, rows = catalogue.table(number), catalogue.tables[number].rows
    held = held_out.covers_table(path) if held_out else np.zeros(rows, bool)
    return TableSource(path, first_id, held)


def accept(dpixels: DPixels, params: PackParams) -> tuple[DPixels, Counter[str]]:
    """Return the d-pixels that are thick enough, and how many are not, by the first reason."""
    optical, radar = dpixels.s2.counts, dpixels.s1_counts
    reasons = {
        "empty": (optical == 0) & (radar == 0),
        "few_optical": optical < params.min_s2,
        "few_radar": radar < params.min_s1,
    }
    left: Flags = np.ones(len(dpixels), dtype=bool)
    rejected: Counter[str] = Counter()
    for reason, applies in reasons.items():
        rejected[reason] = int((applies & left).sum())
        left &= ~applies
    return _chosen(dpixels, left), rejected


def _chosen(dpixels: DPixels, wanted: Flags) -> DPixels:
    return dpixels if wanted.all() else dpixels.take(np.flatnonzero(wanted))
