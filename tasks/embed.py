"""Embed tile folders or a point table with any checkpoint; the door is ``tessera embed``.

    <out>/<tile>.npy                float32 (H, W, dim), or int8 codes with
    <out>/<tile>_scales.npy         float32 (H, W)
    <out>/<tile>_observations.npy   uint16 (H, W, 3)
    <out>/<tile>.json               what it was made from; written last

The one idea: ``<tile>.json`` holds the digests of everything that went in and came out. A tile is
finished if they still hold; a rerun does the rest, from the last block that was safely written. A
tile that cannot be read costs that tile only: the others are done, and it is listed at the end.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from models.dpixel import DPixels
from tasks.checkpoints import Checkpoint
from tasks.embedding import BLOCK_DPIXELS, embed_blocks, num_tokens, tile_blocks
from tasks.errors import ParamsError, StageBusy, TesseraError
from tasks.fidelity import FIDELITY_DPIXELS, Fidelity, fidelity_text, measure_fidelity
from tasks.files import canonical_json, sha256_of, sync_folder, write_json
from tasks.georeference import read_georeference
from tasks.plausibility import check_block, check_source, check_tile
from tasks.points import open_points, write_points
from tasks.progress import Meter, say
from tasks.tile_layers import TileLayers
from tasks.tiles import REGION, Tile, TileRef, find_tiles, read_tile, tiles_root

FORMAT = "tessera-embedding/1"
_WORK = ".unfinished"


@dataclass(frozen=True, slots=True)
class Options:
    """How to embed."""

    dim: int
    """Coordinates to keep, one of the checkpoint's prefixes."""
    as_codes: bool = False
    """Write int8 codes and scales instead of float32."""
    workers: int = 1
    """Threads, one a core."""
    force: bool = False
    """Leave out the checks of ``tasks.plausibility``."""


@dataclass(slots=True)
class Report:
    """What came of it."""

    out: str
    embedded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Finished by an earlier run."""
    failed: dict[str, str] = field(default_factory=dict)
    """Tile and reason."""
    dpixels: int = 0
    unobserved: int = 0
    """D-pixels without any observation: no data."""
    tokens: int = 0
    seconds: float = 0.0
    fidelity: Fidelity | None = None
    """Cosine to float32, mean and worst; ``None`` for float32 itself."""

    def render(self) -> str:
        """Return the summary as text."""
        lines = [
            f"{len(self.embedded)} embedded, {len(self.kept)} kept, {len(self.failed)} failed",
            f"{self.dpixels:,} d-pixels ({self.unobserved:,} without any observation), "
            f"{self.tokens:,} tokens in {self.seconds:,.1f} s: "
            f"{self.dpixels / max(self.seconds, 1e-9):,.0f} d-pixels/s",
        ]
        if self.fidelity:
            lines.append(fidelity_text(self.fidelity))
        lines += [f"FAILED {key}: {reason}" for key, reason in self.failed.items()]
        return "\n".join([*lines, f"See {self.out}"])


def embed_tiles(checkpoint: Checkpoint, tiles: Path, out: Path, options: Options) -> Report:
    """Embed every tile folder below ``tiles``.

    Raises:
        DataError: There is no tile folder at all.
        ParamsError: ``options.dim`` is no prefix of the checkpoint.
        StageBusy: Another process writes to ``out``.
    """
    _check_dim(checkpoint, options)
    refs, report = find_tiles(tiles), Report(str(out))
    with _only_writer(out):
        meter = Meter("embed", sum(_num_pixels(ref) for ref in refs))
        for folder in _empty_folders(tiles):
            report.failed[folder] = "expected tile files; found an empty folder"
        for ref in refs:
            try:
                _embed_tile(_Job(checkpoint, ref, tiles_root(tiles), out, options), meter, report)
            except (TesseraError, OSError, ValueError) as error:
                report.failed[ref.key] = str(error)
                say(f"{ref.key}: failed: {error}")
                meter.skip(_num_pixels(ref))
        meter.close()
        report.tokens, report.seconds = meter.tokens, meter.seconds
    if not report.failed:
        shutil.rmtree(out / _WORK, ignore_errors=True)
    return report


@dataclass(frozen=True, slots=True)
class _Job:
    """One tile and what is to be done with it."""

    checkpoint: Checkpoint
    ref: TileRef
    root: Path
    out: Path
    options: Options

    @property
    def record(self) -> Path:
        """The file that says that the tile is finished."""
        return self.out / f"{self.ref.key}.json"

    def origin(self) -> dict[str, Any]:
        """Return everything that the bytes of the output depend on."""
        files = sorted(path for path in self.ref.folder.iterdir() if path.is_file())
        return {
            "format": FORMAT,
            "model": self.checkpoint.facts(),
            "precision": self.checkpoint.encoder.precision,
            "dim": self.options.dim,
            "codes": self.options.as_codes,
            "source": {path.name: sha256_of(path) for path in files},
        }


def _embed_tile(job: _Job, meter: Meter, report: Report) -> None:
    tile = read_tile(job.ref)
    if not job.options.force:
        check_source(job.ref.folder, job.root, job.checkpoint.encoder.normalisation)
        check_tile(tile)
    origin = job.origin()
    if _is_finished(job.record, origin):
        report.kept.append(job.ref.key)
        meter.skip(tile.region.size)
        return
    rows = np.flatnonzero(tile.region)
    if report.fidelity is None:
        report.fidelity = _fidelity(job, tile, rows)
    identity = sha256(canonical_json(origin).encode()).hexdigest()
    layers = TileLayers(
        job.out / _WORK / job.ref.key,
        job.ref.name,
        tile.region,
        dim=job.options.dim,
        as_codes=job.options.as_codes,
        identity=identity,
    )
    meter.skip(tile.region.size - _pixels_left(rows, layers))
    blocks = _checked_blocks(job, tile, rows, layers.num_blocks)
    for block in embed_blocks(job.checkpoint.encoder, blocks, workers=job.options.workers):
        layers.put(block)
        meter.advance(len(block.rows), num_tokens(block.observations))
        report.dpixels += len(block.rows)
        report.unobserved += int((~block.observations.any(axis=1)).sum())
    layers.finish()
    _publish(job, layers, origin | _description(tile), report.fidelity)
    report.embedded.append(job.ref.key)


def _checked_blocks(job: _Job, tile: Tile, rows: Any, start: int) -> Iterator[tuple[Any, DPixels]]:
    for part, dpixels in tile_blocks(tile, rows, start=start):
        if not job.options.force:
            check_block(tile, part, dpixels)
        yield part, dpixels


def _publish(
    job: _Job, layers: TileLayers, facts: dict[str, Any], fidelity: Fidelity | None
) -> None:
    """Move finished files into place, the record last."""
    job.record.parent.mkdir(parents=True, exist_ok=True)
    job.record.unlink(missing_ok=True)
    files = {path.name: sha256_of(path) for path in layers.paths}
    for path in layers.paths:
        path.replace(job.record.parent / path.name)
    sync_folder(job.record.parent)
    write_json(job.record, facts | {"files": files, "fidelity": fidelity})
    shutil.rmtree(layers.folder)


def _description(tile: Tile) -> dict[str, Any]:
    roi = tile.ref.folder / REGION
    return {
        "tile": tile.ref.name,
        "year": tile.ref.year or None,
        "shape": list(tile.shape),
        "georeference": read_georeference(roi) if roi.exists() else None,
        "dequantise": "embedding = codes * scales[..., None]; a NaN scale is no data",
    }


def _is_finished(record: Path, origin: dict[str, Any]) -> bool:
    """Tell whether the same tile was finished before and its files are as they were written."""
    if not record.is_file():
        return False
    known = json.loads(record.read_text())
    same = all(known.get(name) == value for name, value in origin.items())
    files = {record.parent / name: digest for name, digest in known["files"].items()}
    return same and all(path.is_file() and sha256_of(path) == d for path, d in files.items())


def _fidelity(job: _Job, tile: Tile, rows: Any) -> Fidelity | None:
    if job.checkpoint.encoder.precision == "float32" or not len(rows):
        return None
    few = rows[np.linspace(0, len(rows) - 1, min(len(rows), FIDELITY_DPIXELS)).astype(np.int64)]
    parts = [dpixels for _, dpixels in tile_blocks(tile, np.unique(few))]
    found = measure_fidelity(job.checkpoint.encoder, DPixels.concatenate(parts))
    say(fidelity_text(found))
    return found


def embed_points(checkpoint: Checkpoint, points: Path, out: Path, options: Options) -> Report:
    """Embed a point table into the Parquet file ``out``.

    Raises:
        DataError: The table breaks its contract.
        ParamsError: ``options.dim`` is no prefix of the checkpoint.
    """
    _check_dim(checkpoint, options)
    table, report = open_points(points), Report(str(out))
    if checkpoint.encoder.precision != "float32":
        first = next(table.blocks())[1]
        few = np.arange(min(len(first), FIDELITY_DPIXELS))
        report.fidelity = measure_fidelity(checkpoint.encoder, first.take(few))
    meter, blocks = Meter("embed", len(table)), []
    for block in embed_blocks(checkpoint.encoder, table.blocks(), workers=options.workers):
        blocks.append(block)
        meter.advance(len(block.rows), num_tokens(block.observations))
        report.dpixels += len(block.rows)
        report.unobserved += int((~block.observations.any(axis=1)).sum())
    meter.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.part")
    write_points(aside, table, blocks, dim=options.dim, as_codes=options.as_codes)
    aside.replace(out)
    report.embedded.append(points.name)
    report.tokens, report.seconds = meter.tokens, meter.seconds
    return report


def _check_dim(checkpoint: Checkpoint, options: Options) -> None:
    if options.dim not in checkpoint.prefixes:
        raise ParamsError(
            f"a length that the model was trained for: {', '.join(map(str, checkpoint.prefixes))}",
            found=str(options.dim),
            where="--dim",
            mend="Choose one of them.",
        )


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise StageBusy(
            "no other writer",
            found="a process that embeds into the same folder",
            where=str(out),
            mend="Wait for it, or choose another --out.",
        ) from error


def _num_pixels(ref: TileRef) -> int:
    try:
        return read_tile(ref).region.size
    except TesseraError:
        return 0


def _pixels_left(rows: Any, layers: TileLayers) -> int:
    return max(0, len(rows) - layers.num_blocks * BLOCK_DPIXELS)


def _empty_folders(tiles: Path) -> list[str]:
    root = tiles_root(tiles)
    return [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if path.is_dir() and not any(path.iterdir())
    ]
