"""Embed tile folders or a point table with any checkpoint; the door is ``tessera embed``.

    <out>/<tile>.npy                float32 (H, W, dim), or int8 codes with
    <out>/<tile>_scales.npy         float32 (H, W)
    <out>/<tile>_observations.npy   uint16 (H, W, 3)
    <out>/<tile>.json               what it was made from; written last

The one idea: ``<tile>.json`` holds the digests of everything that went in and came out. A tile is
finished if they still hold; a rerun does the rest, from the last block that was safely written. A
tile that cannot be read costs that tile only: the others are done, and it is listed at the end.
"""

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from filelock import FileLock, Timeout

from models.dpixel import DPixels
from tasks.checkpoints import Checkpoint
from tasks.embedding.blocks import BLOCK_DPIXELS, Embedded, embed_blocks, num_tokens, tile_blocks
from tasks.embedding.fidelity import FIDELITY_DPIXELS, Fidelity, fidelity_text, measure_fidelity
from tasks.embedding.plausibility import check_block, check_source, check_tile
from tasks.embedding.points import open_points, write_points
from tasks.embedding.report import Options, Report, check_dim
from tasks.embedding.tile_layers import TileLayers
from tasks.errors import ParamsError, StageBusy, TesseraError
from tasks.files import canonical_json, sha256_of, sync_file, sync_folder, write_json
from tasks.georeference import read_georeference
from tasks.progress import Meter, say
from tasks.tiles import OPTICAL, REGION, Tile, TileRef, find_tiles, read_tile, tiles_root

FORMAT = "tessera-embedding/1"
_WORK = ".unfinished"


def embed_tiles(checkpoint: Checkpoint, tiles: Path, out: Path, options: Options) -> Report:
    """Embed every tile folder below ``tiles``.

    Raises:
        DataError: There is no tile folder at all.
        ParamsError: ``options.dim`` is no prefix of the checkpoint.
        StageBusy: Another process writes to ``out``.
    """
    check_dim(checkpoint, options)
    refs, report = find_tiles(tiles), Report(str(out))
    with _only_writer(out):
        meter = Meter("embed", sum(_num_pixels(ref) for ref in refs))
        report.failed |= _folders_without_tile(tiles, refs)
        for ref in refs:
            try:
                _embed_tile(_Job(checkpoint, ref, tiles, out, options), meter, report)
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
    archive: Path
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
        check_source(job.ref.folder, job.archive, job.checkpoint.encoder.normalisation)
        check_tile(tile)
    origin = job.origin()
    if finished := _finished(job.record, origin):
        report.kept.append(job.ref.key)
        if report.fidelity is None:
            report.fidelity = finished.get("fidelity")
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
        layers.put(_counted(block, meter, report))
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
    if not job.options.as_codes:  # scales of an earlier run with codes
        (job.record.parent / f"{job.ref.name}_scales.npy").unlink(missing_ok=True)
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


def _finished(record: Path, origin: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record if the same tile was finished before and its files are as written."""
    try:
        known: dict[str, Any] = json.loads(record.read_text())
        same = all(known[name] == value for name, value in origin.items())
        files = {record.parent / name: digest for name, digest in known["files"].items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none yet, or damaged
    whole = all(path.is_file() and sha256_of(path) == d for path, d in files.items())
    return known if same and whole else None


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
        ParamsError: ``options.dim`` is no prefix of the checkpoint, or ``out`` is a folder.
    """
    check_dim(checkpoint, options)
    if out.is_dir():
        raise ParamsError(
            "a file to write",
            found="a folder",
            where=f"--out {out}",
            mend="Name a Parquet file; a folder is for --tiles.",
        )
    table, report = open_points(points), Report(str(out))
    if checkpoint.encoder.precision != "float32":
        first = next(table.blocks())[1]
        few = np.arange(min(len(first), FIDELITY_DPIXELS))
        report.fidelity = measure_fidelity(checkpoint.encoder, first.take(few))
        say(fidelity_text(report.fidelity))
    meter = Meter("embed", len(table))
    blocks = embed_blocks(checkpoint.encoder, table.blocks(), workers=options.workers)
    counted = (_counted(block, meter, report) for block in blocks)
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        write_points(aside, table, counted, dim=options.dim, as_codes=options.as_codes)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    meter.close()
    sync_file(aside)
    aside.replace(out)
    sync_folder(out.parent)
    report.embedded.append(points.name)
    report.tokens, report.seconds = meter.tokens, meter.seconds
    return report


def _sweep(out: Path) -> None:
    """Remove what killed runs left beside an output."""
    for path in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
        if not psutil.pid_exists(int(path.suffixes[-2][1:])):
            path.unlink(missing_ok=True)


def _counted(block: Embedded, meter: Meter, report: Report) -> Embedded:
    meter.advance(len(block.rows), num_tokens(block.observations))
    report.dpixels += len(block.rows)
    report.unobserved += int((~block.observations.any(axis=1)).sum())
    return block


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
    except (TesseraError, OSError):
        return 0


def _pixels_left(rows: Any, layers: TileLayers) -> int:
    return max(0, len(rows) - layers.num_blocks * BLOCK_DPIXELS)


def _folders_without_tile(tiles: Path, refs: list[TileRef]) -> dict[str, str]:
    """Return folders in which no tile can be found, and why; what tiles keep inside is theirs."""
    root, found = tiles_root(tiles), {}
    ours = {ref.folder for ref in refs}
    for place, folders, _ in os.walk(root):
        if Path(place) in ours:
            folders.clear()
        for folder in (Path(place, name) for name in folders):
            key = folder.relative_to(root).as_posix()
            if not os.access(folder, os.R_OK | os.X_OK):
                found[key] = f"expected a folder that may be read; found no permission: {folder}"
            elif folder.is_symlink() and any(folder.rglob(OPTICAL[0])):
                found[key] = f"expected a folder; found a link, which is not followed: {folder}"
            elif not any(folder.iterdir()):
                found[key] = "expected tile files; found an empty folder"
    return dict(sorted(found.items()))
