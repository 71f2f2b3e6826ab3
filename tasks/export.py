"""Write embedding tiles: the best student over every pixel of every tile, as int8 codes.

    <year>/<tile>/<tile>.npy                int8 (H, W, dim) codes
    <year>/<tile>/<tile>_scales.npy         float32 (H, W); embedding = code * scale; NaN: no data
    <year>/<tile>/<tile>_observations.npy   uint16 (H, W, 3): Sentinel-2, Sentinel-1 asc., desc.
    <year>/<tile>/tile.json                 georeference, model, normalisation, totals
    product.json                            index with the digest of every file

The one idea: the scale comes from the full embedding, so the first 16, 32 or 64 codes are exact
prefixes. Finished tiles survive a crash and are used again once their digests have been checked.

It deliberately does not ask the registry who is promoted: the same inputs give the same product.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.quantize import LARGEST_CODE, quantize
from tasks.embedding import Encoder, embed_pixels, open_encoder
from tasks.errors import DataError, LineageError, ParamsError
from tasks.files import files_below, write_json
from tasks.georeference import read_georeference
from tasks.ingest import Catalogue, Entry, read_catalogue
from tasks.manifest import describe_files, digest_of
from tasks.params import ExportParams, Params
from tasks.progress import track
from tasks.scores import SCORES, read_scores
from tasks.stage import Stage, run_stage, stage_main
from tasks.tiles import REGION, Tile, read_tile
from tasks.workspace import Workspace

PRODUCT = "product.json"
_DONE = "done.json"
_FORMAT = "tessera-embeddings/1"
_SCALE_SLACK = 1e-4  # LayerNorm's epsilon and float32 let the bounds be missed by this share


@dataclass(frozen=True, slots=True)
class Source:
    """The student that a product is made with."""

    encoder: Encoder
    facts: dict[str, Any]
    """What every tile says about it."""


def export(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    section = params.export
    students = tuple(params.distill.students)

    def body(stage: Stage) -> None:
        torch.set_num_threads(section.threads)
        source = _open_source(stage, students, section.dim)
        catalogue = read_catalogue(workspace, stage.parents["ingest"])
        for index in track(
            range(len(catalogue)), label="export", total=len(catalogue), unit="tiles"
        ):
            entry = catalogue.entries[index]
            folder = stage.work / "tiles" / entry.key
            if not _is_done(folder):
                tile = read_tile(catalogue.tile(index))
                _export_tile(folder, entry, tile, source, section)
        _seal(stage, catalogue, source)

    run_stage(
        "export",
        body,
        workspace=workspace,
        section=section,
        parents=("ingest", *(f"distill@{name}" for name in students), "evaluate"),
    )


def _best(stage: Stage, students: tuple[str, ...]) -> str:
    best = str(read_scores(stage.parents["evaluate"])["best"])
    if best not in students:
        raise LineageError(
            f"a best student among {', '.join(students)}",
            found=best,
            where=str(stage.parents["evaluate"] / SCORES),
            mend="The students changed since the evaluation: dvc repro evaluate",
        )
    return best


def _open_source(stage: Stage, students: tuple[str, ...], dim: int) -> Source:
    best = _best(stage, students)
    encoder = open_encoder(stage.parents[f"distill@{best}"])
    if dim not in encoder.prefixes:
        raise ParamsError(
            f"a prefix the student was trained for: {encoder.prefixes}",
            found=str(dim),
            where="export.dim in params.yaml",
            mend="Choose one of them.",
        )
    facts = {
        "stage": f"distill@{best}",
        "manifest": digest_of(stage.parents[f"distill@{best}"]),
        "checkpoint": encoder.digest,
        "normalisation": encoder.normalisation.name,
        "normalisation_digest": encoder.normalisation.digest,
        "ladder": list(encoder.ladder),
        "full_dim": encoder.dim,
        "prefixes": list(encoder.prefixes),
    }
    return Source(encoder, facts)


@dataclass(frozen=True, slots=True)
class TileProduct:
    """The layers of one embedding tile."""

    codes: npt.NDArray[np.int8]
    """(H, W, full_dim)."""
    scales: npt.NDArray[np.float32]
    """(H, W); NaN where there is no embedding."""
    observations: npt.NDArray[np.uint16]
    """(H, W, 3)."""


def make_tile(encoder: Encoder, tile: Tile, *, max_tokens: int) -> TileProduct:
    """Embed every pixel of a tile's region; the others are no data."""
    height, width = tile.shape
    rows = np.flatnonzero(tile.region)
    embedded = embed_pixels(encoder, tile, rows, max_tokens=max_tokens)
    codes = np.zeros((height * width, encoder.dim), np.int8)
    scales = np.full(height * width, np.nan, np.float32)
    observations = np.zeros((height * width, 3), np.uint16)
    codes[rows], scales[rows] = quantize(embedded.embedding)
    observations[rows] = embedded.observations
    product = TileProduct(
        codes.reshape(height, width, -1),
        scales.reshape(height, width),
        observations.reshape(height, width, 3),
    )
    check_product(product, where=f"tile {tile.ref.key}")
    return product


def check_product(product: TileProduct, *, where: str) -> None:
    """Refuse a tile that cannot come from a LayerNorm-ed embedding coded with its own scale.

    With mean 0 and variance 1 over d coordinates the peak lies between 1 and sqrt(d - 1), hence
    the scale between 1/127 and sqrt(d)/127. Source: tile format of the published v2 product.

    Raises:
        DataError: Naming the first pixel that breaks a rule.
    """
    valid = ~np.isnan(product.scales)
    dim = product.codes.shape[-1]
    peak = np.abs(product.codes.astype(np.int16)).max(axis=-1)
    low, high = 1 / LARGEST_CODE, math.sqrt(dim) / LARGEST_CODE
    inside = (product.scales >= low * (1 - _SCALE_SLACK)) & (
        product.scales <= high * (1 + _SCALE_SLACK)
    )
    rules = {
        f"a scale in [{low:.5f}, {high:.5f}]": valid & ~inside,
        f"a largest code of {LARGEST_CODE}": valid & (peak != LARGEST_CODE),
        "codes of 0 where there is no embedding": ~valid & (peak != 0),
        "observations where there is an embedding": valid != product.observations.any(axis=-1),
    }
    for expected, broken in rules.items():
        if broken.any():
            row, column = (int(place) for place in np.argwhere(broken)[0])
            raise DataError(
                expected,
                found=f"scale {product.scales[row, column]}, peak {peak[row, column]}, "
                f"observations {product.observations[row, column].tolist()}; "
                f"{int(broken.sum())} such pixels",
                where=f"{where}, pixel row {row} column {column}",
                mend="The student's embedding is not normalised: distil it again.",
            )


def _export_tile(
    folder: Path, entry: Entry, tile: Tile, source: Source, section: ExportParams
) -> None:
    product = make_tile(source.encoder, tile, max_tokens=section.max_tokens)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name = tile.ref.name
    np.save(folder / f"{name}.npy", np.ascontiguousarray(product.codes[..., : section.dim]))
    np.save(folder / f"{name}_scales.npy", product.scales)
    np.save(folder / f"{name}_observations.npy", product.observations)
    write_json(folder / "tile.json", _describe_tile(entry, tile, product, source, section.dim))
    write_json(folder / _DONE, describe_files(folder))


def _describe_tile(
    entry: Entry, tile: Tile, product: TileProduct, source: Source, dim: int
) -> dict[str, Any]:
    roi = tile.ref.folder / REGION
    totals = product.observations.astype(np.int64).sum(axis=(0, 1)).tolist()
    return {
        "format": _FORMAT,
        "tile": tile.ref.name,
        "year": entry.year or None,
        "shape": [*tile.shape, dim],
        "georeference": read_georeference(roi) if roi.exists() else None,
        "dequantise": "embedding = codes * scales[..., None]; a NaN scale is no data",
        "observations": dict(zip(("s2", "s1_ascending", "s1_descending"), totals, strict=True)),
        "dpixels": int((~np.isnan(product.scales)).sum()),
        "source": {name: facts["sha256"] for name, facts in sorted(entry.files.items())},
        "model": source.facts,
    }


def _is_done(folder: Path) -> bool:
    """Tell whether an earlier run finished the tile and its bytes are as it wrote them."""
    done = folder / _DONE
    if not done.is_file():
        return False
    found = {name: facts for name, facts in describe_files(folder).items() if name != _DONE}
    return bool(found == json.loads(done.read_text()))


def _seal(stage: Stage, catalogue: Catalogue, source: Source) -> None:
    """Put the finished tiles into the output and write the index."""
    finished = stage.work / "tiles"
    index = []
    for entry in catalogue.entries:
        folder = finished / entry.key
        facts = json.loads((folder / "tile.json").read_text())
        files = json.loads((folder / _DONE).read_text())
        kept = ("tile", "year", "shape", "georeference", "observations", "dpixels")
        index.append({"key": entry.key, "files": files} | {name: facts[name] for name in kept})
        for path in files_below(folder):
            if path.name != _DONE:
                _link(path, stage.build / path.relative_to(finished))
    dpixels = sum(item["dpixels"] for item in index)
    counts = {"tiles": len(index), "dpixels": dpixels}
    stage.counts |= counts
    content = {"format": _FORMAT, "model": source.facts, "counts": counts, "tiles": index}
    write_json(stage.build / PRODUCT, content)


def _link(source: Path, target: Path) -> None:
    """Put a file in a second place without its bytes, or with them across file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    stage_main(export)
