"""Write embedding tiles: the best student over every pixel of every tile, as int8 codes.

    <year>/<tile>/<tile>.npy                int8 (H, W, dim) codes
    <year>/<tile>/<tile>_scales.npy         float32 (H, W); embedding = code * scale; NaN: no data
    <year>/<tile>/<tile>_observations.npy   uint16 (H, W, 3): Sentinel-2, Sentinel-1 asc., desc.
    <year>/<tile>/tile.json                 georeference, model, normalisation, totals
    product.json                            index with the digest of every file

The one idea: the scale comes from the full embedding, so the first 16, 32 or 64 codes are exact
prefixes. Finished tiles survive a crash and are used again once their digests have been checked.

It deliberately does not ask the registry who is promoted: the same inputs give the same product.
An archive of point tables alone gives a product without tiles, which says so: there is nothing to
map, and the students that came of the tables are none the worse.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.embedding.blocks import embed_blocks, tile_blocks
from tasks.embedding.tile_layers import TileLayers
from tasks.errors import LineageError, ParamsError
from tasks.files import files_below, write_json
from tasks.georeference import read_georeference
from tasks.ingest import Catalogue, Entry, read_catalogue
from tasks.manifest import describe_files, digest_of
from tasks.params import Params
from tasks.progress import say, track
from tasks.scores import SCORES, read_scores
from tasks.settings.products import ExportParams
from tasks.stage import Stage, run_stage, stage_main
from tasks.tiles import REGION, Tile, read_tile
from tasks.workspace import Workspace

PRODUCT = "product.json"
_DONE = "done.json"
_FORMAT = "tessera-embeddings/1"


@dataclass(frozen=True, slots=True)
class Source:
    """The student that a product is made with."""

    checkpoint: Checkpoint
    facts: dict[str, Any]
    """What every tile says about it."""


def export(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    section = params.export
    students = tuple(params.distill.students)

    def body(stage: Stage) -> None:
        source = _open_source(stage, students, dim=section.dim, max_tokens=section.max_tokens)
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


def _open_source(stage: Stage, students: tuple[str, ...], *, dim: int, max_tokens: int) -> Source:
    best = _best(stage, students)
    checkpoint = open_checkpoint(stage.parents[f"distill@{best}"], max_tokens=max_tokens)
    if dim not in checkpoint.prefixes:
        raise ParamsError(
            f"a prefix the student was trained for: {checkpoint.prefixes}",
            found=str(dim),
            where="export.dim in params.yaml",
            mend="Choose one of them.",
        )
    facts = {
        "stage": f"distill@{best}",
        "manifest": digest_of(stage.parents[f"distill@{best}"]),
    }
    return Source(checkpoint, facts | checkpoint.facts())


def _export_tile(
    folder: Path, entry: Entry, tile: Tile, source: Source, section: ExportParams
) -> None:
    rows = np.flatnonzero(tile.region)
    layers = TileLayers(
        folder,
        tile.ref.name,
        tile.region,
        dim=section.dim,
        as_codes=True,
        identity=source.checkpoint.digest,  # the working folder belongs to one set of inputs
    )
    blocks = tile_blocks(tile, rows, start=layers.num_blocks)
    for block in embed_blocks(source.checkpoint.encoder, blocks, workers=section.threads):
        layers.put(block)
    write_json(folder / "tile.json", _describe_tile(entry, tile, layers, source, section.dim))
    layers.finish()
    write_json(folder / _DONE, describe_files(folder))


def _describe_tile(
    entry: Entry, tile: Tile, layers: TileLayers, source: Source, dim: int
) -> dict[str, Any]:
    roi = tile.ref.folder / REGION
    totals = layers.observations.sum(axis=(0, 1), dtype=np.int64).tolist()
    return {
        "format": _FORMAT,
        "tile": tile.ref.name,
        "year": entry.year or None,
        "shape": [*tile.shape, dim],
        "georeference": read_georeference(roi) if roi.exists() else None,
        "dequantise": "embedding = codes * scales[..., None]; a NaN scale is no data",
        "observations": dict(zip(("s2", "s1_ascending", "s1_descending"), totals, strict=True)),
        "dpixels": int(layers.observations.any(axis=-1).sum()),
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
    if not index:
        content["note"] = "The archive has point tables and no tile: there is nothing to map."
        say(f"export: {content['note']} Embed the tables with: tessera embed --points")
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
