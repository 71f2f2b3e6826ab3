"""Check that training and evaluation share no ground: the door is ``tessera check-split``.

The corpus is read by its pixel ids alone, a block at a time, and its sources are placed by the archive
that was ingested. Georeferences are compared with the catalogue: another archive may have tiles of the
same names elsewhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.errors import DataError, DigestMismatch, LineageError
from tasks.files import sha256_of
from tasks.ingest import Catalogue, Entry
from tasks.manifest import MANIFEST, digest_of, read_manifest
from tasks.packing.sources import source_keys
from tasks.progress import track
from tasks.streaming.corpus import Corpus, open_corpus
from tasks.tiles import REGION, read_raster, tiles_root
from tasks.validation.held_out import Years, check_block
from tasks.validation.label_places import Places, read_labels, read_points
from tasks.validation.leaks import KINDS, Raster, collect, find_leaks, leak_verdict
from tasks.validation.places import Grid
from tasks.validation.verdict import Verdict

_SHOWN = 20  # sources that leak, in the table for people


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What the gate found."""

    verdict: Verdict
    table: pd.DataFrame
    """One row a source of labels and year, as ``tasks.validation.leaks.find_leaks`` says."""
    dpixels: int
    """D-pixels that training reads."""
    block_m: int
    years: Years

    def to_json(self) -> dict[str, Any]:
        """Return plain values for programs."""
        return {
            "success": self.verdict.success,
            "dpixels": self.dpixels,
            "block_m": self.block_m,
            "years": self.years,
            "labels": int(self.table["labels"].sum()),
            **{kind: int(self.table[kind].sum()) for kind in KINDS},
            "sources": self.table.drop(columns=["sensor", "band"]).to_dict(orient="records"),
        }

    def render(self) -> str:
        """Return the table for people: the sources that leak, and the sums."""
        total = self.to_json()
        leaking = self.table[self.table[list(KINDS)].sum(axis=1) > 0]
        shown = leaking.drop(columns=["sensor", "band"]).rename(columns={"tile": "labels of"})
        lines = [shown.head(_SHOWN).to_string(index=False)] if len(shown) else []
        lines += [f"and {len(shown) - _SHOWN} more; --json lists all"] * (len(shown) > _SHOWN)
        counts = ", ".join(f"{total[kind]:,} {kind.replace('_', ' ')}" for kind in KINDS)
        word = "no leak" if self.verdict.success else "LEAK"
        judged = "" if self.years == "any" else " (other years are no leak with --years same)"
        lines.append(
            f"{word}: of {total['labels']:,} labels against {self.dpixels:,} d-pixels, "
            f"blocks of {self.block_m:,} m: {counts}{judged}"
        )
        return "\n".join(lines)


def check_split(
    catalogue: Catalogue, corpus: str, labels: Path, *, block_m: int, years: Years
) -> SplitReport:
    """Hold the pixels of a packed corpus against labels that are kept for evaluation.

    Args:
        catalogue: The archive that was packed.
        corpus: Folder of the pack, or its ``s3://bucket/prefix``.
        labels: An archive with labels, or a Parquet table with ``lon``, ``lat`` and ``year``.
        block_m: Side of a block in metres.
        years: With ``same``, ground that is trained on in other years is reported and is no leak.

    Raises:
        DataError: A tile, row or label has no place, or the corpus is not of this archive.
        DigestMismatch: A georeference changed since the archive was ingested.
        ShardDamaged: A block of the corpus is not what was written.
    """
    check_block(block_m)
    opened = open_corpus(corpus, "dpixels")
    sources = _sources(catalogue, _packed(opened, source_keys(catalogue)))
    table = find_leaks(collect(sources, _ids(opened)), read_labels(labels), block_m)
    return SplitReport(leak_verdict(table, years), table, len(opened), block_m, years)


def require_lineage(corpus: str, ingested: Path) -> None:
    """Refuse the finished pack of another archive: its tiles may have the same names elsewhere.

    Args:
        corpus: Where the corpus is. A copy without a manifest, such as one in a bucket, is taken for
            what its index says.
        ingested: Output of ``ingest``, whose archive places the sources.

    Raises:
        LineageError: The corpus was packed from something else, or nothing was ingested.
        DigestMismatch: The output of ``ingest`` is damaged.
    """
    read_manifest(ingested, verify=True)
    if not (Path(corpus) / MANIFEST).is_file():
        return
    packed, placed = read_manifest(Path(corpus)).parents.get("ingest", ""), digest_of(ingested)
    if packed != placed:
        raise LineageError(
            f"a corpus packed from what {ingested} lists (manifest {placed[:12]})",
            found=f"one packed from {packed[:12] or 'no archive'}",
            where=corpus,
            mend="Pack this archive (dvc repro pack), or check in the project of that corpus.",
        )


def _packed(corpus: Corpus, keys: Sequence[str]) -> list[bool]:
    """Return of which sources something was packed, as the index says.

    Raises:
        DataError: The corpus has other sources, or numbers them otherwise.
    """
    listed = corpus.index.facts.get("sources")
    sources = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    found = [str(one.get("key")) for one in sources]
    if found != list(keys):
        other = sorted(set(found) ^ set(keys))
        raise DataError(
            "a corpus of the archive that was ingested",
            found=f"other sources, such as {other[0]}" if other else "its sources in another order",
            where=corpus.store.where,
            mend="Pack the archive again: dvc repro pack",
        )
    return [one.get("rows") != 0 for one in sources]


def _ids(corpus: Corpus) -> Iterator[npt.NDArray[np.uint64]]:
    numbers = range(corpus.num_blocks)
    for number in track(numbers, label="check-split", total=len(numbers), unit="blocks"):
        yield corpus.dpixels(number).pixel_id.copy()  # of a block, only its ids stay in memory


def _sources(catalogue: Catalogue, used: Sequence[bool]) -> list[Raster | list[Places]]:
    """Place the sources; of one that nothing was packed of, no place is needed."""
    tiles = len(catalogue)
    return [
        []
        if not used[number]
        else _raster(catalogue, catalogue.entries[number])
        if number < tiles
        else list(read_points(catalogue.table(number - tiles)))
        for number in range(catalogue.num_sources)
    ]


def _raster(catalogue: Catalogue, entry: Entry) -> Raster:
    path = tiles_root(catalogue.archive) / entry.key / REGION
    grid = Grid(path)
    if sha256_of(path) != entry.files.get(REGION, {}).get("sha256"):
        raise DigestMismatch(
            "the georeference that was ingested",
            found="another",
            where=str(path),
            mend="Restore the archive, or ingest and pack it again.",
        )
    height, width = read_raster(path).shape
    return Raster(entry.key, entry.year, grid, (height, width))
