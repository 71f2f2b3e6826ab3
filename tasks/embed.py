"""Embed tile folders with any checkpoint; the door is ``tessera embed --tiles``.

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
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from models.dpixel import DPixels
from models.precision import largest_weight_code
from tasks.checkpoints import Checkpoint
from tasks.embedding.blocks import BLOCK_DPIXELS, embed_blocks, tile_blocks
from tasks.embedding.fidelity import FIDELITY_DPIXELS, FidelityGauge, fidelity_text
from tasks.embedding.plausibility import check_block, check_source, check_tile
from tasks.embedding.report import Options, Report, check_dim
from tasks.embedding.tile_layers import TileLayers
from tasks.embedding.unread import folders_without_tile
from tasks.errors import StageBusy, TesseraError
from tasks.files import canonical_json, sha256_of, sweep_parts, sync_folder, write_json
from tasks.georeference import read_georeference
from tasks.progress import Meter, say
from tasks.tiles import (
    REGION,
    Tile,
    TileRef,
    dpixels_of,
    find_tiles,
    read_tile,
    release,
)

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
        sizes = [_num_pixels(ref) for ref in refs]
        meter = Meter("embed", sum(sizes))
        report.failed |= folders_without_tile(tiles, refs)
        gauge, end = FidelityGauge(checkpoint.encoder), 0
        for ref, num_pixels in zip(refs, sizes, strict=True):
            end += num_pixels
            try:
                _embed_tile(_Job(checkpoint, ref, tiles, out, options, gauge), meter, report)
            except (TesseraError, OSError, ValueError) as error:
                report.failed[ref.key] = str(error)
                say(f"{ref.key}: failed: {error}")
            meter.skip_to(end)
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
    gauge: FidelityGauge

    @property
    def record(self) -> Path:
        """The file that says that the tile is finished."""
        return self.out / f"{self.ref.key}.json"

    def origin(self) -> dict[str, Any]:
        """Return what an output says it was made from."""
        files = sorted(path for path in self.ref.folder.iterdir() if path.is_file())
        return {
            "format": FORMAT,
            "model": self.checkpoint.facts(),
            "precision": self.checkpoint.encoder.precision,
            "dim": self.options.dim,
            "codes": self.options.as_codes,
            "source": {path.name: sha256_of(path) for path in files},
        }

    def identity(self, origin: dict[str, Any]) -> str:
        """Digest what an unfinished output depends on: its two halves must fit to the last bit."""
        encoder = self.checkpoint.encoder
        here = {
            "device": encoder.device.type,
            "torch": str(torch.__version__),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "largest_code": largest_weight_code() if encoder.precision == "int8" else None,
            "forced": self.options.force,
        }
        return sha256(canonical_json(origin | here).encode()).hexdigest()


def _embed_tile(job: _Job, meter: Meter, report: Report) -> None:
    tile = read_tile(job.ref)
    if not job.options.force:
        check_source(job.ref.folder, job.archive, job.checkpoint.encoder.normalisation)
        check_tile(tile)
    origin = job.origin()
    if finished := _finished(job, origin):
        report.kept.append(job.ref.key)
        if (known := finished.get("fidelity")) is not None:
            report.fidelity[job.ref.key] = known
        return
    rows = np.flatnonzero(tile.region)
    fidelity = None
    if job.checkpoint.encoder.precision != "float32":
        fidelity = job.gauge.measure(_fidelity_sample(tile, rows))
        say(f"{job.ref.key}: {fidelity_text([fidelity])}")
    layers = TileLayers(
        job.out / _WORK / job.ref.key,
        job.ref.name,
        tile.region,
        dim=job.options.dim,
        as_codes=job.options.as_codes,
        identity=job.identity(origin),
    )
    meter.skip(tile.region.size - _pixels_left(rows, layers))
    blocks = _checked_blocks(job, tile, rows, layers.num_blocks)
    for block in embed_blocks(job.checkpoint.encoder, blocks, workers=job.options.workers):
        layers.put(report.count(block, meter))
    layers.finish()
    facts = origin | _description(tile) | {"forced": job.options.force, "fidelity": fidelity}
    _publish(job, layers, facts)
    report.embedded.append(job.ref.key)
    if fidelity is not None:
        report.fidelity[job.ref.key] = fidelity


def _checked_blocks(job: _Job, tile: Tile, rows: Any, start: int) -> Iterator[tuple[Any, DPixels]]:
    for part, dpixels in tile_blocks(tile, rows, start=start):
        if not job.options.force:
            check_block(tile, part, dpixels)
        yield part, dpixels


def _publish(job: _Job, layers: TileLayers, facts: dict[str, Any]) -> None:
    """Move finished files into place, the record last."""
    job.record.parent.mkdir(parents=True, exist_ok=True)
    sweep_parts(job.record)
    job.record.unlink(missing_ok=True)
    files = {path.name: sha256_of(path) for path in layers.paths}
    for path in layers.paths:
        path.replace(job.record.parent / path.name)
    if not job.options.as_codes:  # scales of an earlier run with codes
        (job.record.parent / f"{job.ref.name}_scales.npy").unlink(missing_ok=True)
    sync_folder(job.record.parent)
    write_json(job.record, facts | {"files": files})
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


def _finished(job: _Job, origin: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record if the same tile was finished before and its files are as written.

    What ``--force`` let through is finished only for another run with it.
    """
    try:
        known: dict[str, Any] = json.loads(job.record.read_text())
        same = all(known[name] == value for name, value in origin.items())
        allowed = job.options.force or not known["forced"]
        files = {job.record.parent / name: digest for name, digest in known["files"].items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none yet, or damaged
    whole = bool(files) and all(
        path.is_file() and sha256_of(path) == d for path, d in files.items()
    )
    return known if same and allowed and whole else None


def _fidelity_sample(tile: Tile, rows: Any) -> DPixels:
    """Return d-pixels from four places of the tile, side by side there: few pages are read."""
    each = FIDELITY_DPIXELS // 4
    starts = np.linspace(0, max(0, len(rows) - each), 4).astype(np.int64)
    few = np.unique([rows[start : start + each] for start in starts])
    found = dpixels_of(tile, few, first_id=0)
    release(tile)
    return found


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
