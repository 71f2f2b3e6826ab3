"""Run the frozen teacher once over the corpus and keep its embeddings as targets.

``targets-<n>.arrow`` has the rows of ``dpixels-<n>.arrow`` in the same blocks, and both carry the
pixel id, so a mismatch is found out when they are joined. The teacher sees all observations of a
d-pixel, padded to the bucket ladder. Memory holds a few blocks, and finished shards survive a crash.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.dpixel import DPixels
from models.encode import Encoder
from tasks.checkpoints import open_checkpoint
from tasks.embedding.blocks import BLOCK_DPIXELS, Block, embed_blocks
from tasks.files import link_file, write_json
from tasks.params import Params
from tasks.progress import track
from tasks.shards.index import write_index
from tasks.shards.records import entry_of, entry_record
from tasks.shards.rows import encode_targets, target_schema
from tasks.shards.writer import ShardWriter
from tasks.stage import Stage, run_stage, stage_main
from tasks.streaming.corpus import Corpus, open_output
from tasks.workspace import Workspace


def cache_targets(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    section = params.cache_targets

    def body(stage: Stage) -> None:
        teacher = open_checkpoint(stage.parents["pretrain"], max_tokens=section.max_tokens).encoder
        corpus = open_output("pack", stage.parents["pack"], stage.workspace.shards, "dpixels")
        names = [entry.name.replace("dpixels", "targets") for entry in corpus.index.shards]
        for number, name in track(
            enumerate(names), label="teacher", total=len(names), unit="shards"
        ):
            path = stage.work / name
            if not _record(path).exists():
                write_targets(teacher, corpus, number, path, workers=section.threads)
            link_file(path, stage.build / name)
        shards = [entry_of(json.loads(_record(stage.work / name).read_text())) for name in names]
        write_index(stage.build, "targets", corpus.block_rows, shards, {"dim": teacher.dim})
        stage.counts |= {"targets": len(corpus), "shards": len(names)}

    run_stage(
        "cache_targets",
        body,
        workspace=workspace,
        section=section,
        parents=("pack", "pretrain"),
    )


def write_targets(
    teacher: Encoder, corpus: Corpus, number: int, path: Path, *, workers: int
) -> None:
    """Write the targets of one shard, and then the record that says that they are whole."""
    schema, rows = target_schema(teacher.dim), corpus.block_rows
    with ShardWriter(path, schema) as writer:
        for group in embed_blocks(teacher, _groups(corpus, number), workers=workers):
            ids = group.rows.view(np.uint64)
            for at in range(0, len(ids), rows):
                part = slice(at, at + rows)
                writer.add(encode_targets(ids[part], group.embedding[part], schema))
        entry = writer.finish()
    write_json(_record(path), entry_record(entry, writer.blocks))


def _groups(corpus: Corpus, number: int) -> Iterator[Block]:
    """Yield the blocks of a shard under their pixel ids, a few together where they are small."""
    blocks, together = corpus.blocks_of(number), max(1, BLOCK_DPIXELS // corpus.block_rows)
    for at in range(0, len(blocks), together):
        dpixels = DPixels.concatenate([corpus.dpixels(n) for n in blocks[at : at + together]])
        corpus.store.release()
        yield dpixels.pixel_id.view(np.int64), dpixels


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


if __name__ == "__main__":
    stage_main(cache_targets)
