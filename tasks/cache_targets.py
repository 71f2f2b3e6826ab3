"""Run the frozen teacher once over the corpus and keep its embeddings as targets.

Row i of ``targets-<n>.arrow`` belongs to row i of ``dpixels-<n>.arrow``, and both carry the pixel
id, so a mismatch is found out when they are joined. The teacher sees all observations of a d-pixel,
padded to the bucket ladder. Finished shards survive a crash.
"""

import shutil
from collections.abc import Iterator

import numpy as np

from models.dpixel import DPixels
from tasks.checkpoints import open_checkpoint
from tasks.embedding.blocks import BLOCK_DPIXELS, Block, embed_blocks
from tasks.params import Params
from tasks.progress import track
from tasks.shards import ShardSet, write_index, write_targets
from tasks.stage import Stage, run_stage, stage_main
from tasks.workspace import Workspace


def cache_targets(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    section = params.cache_targets

    def body(stage: Stage) -> None:
        teacher = open_checkpoint(stage.parents["pretrain"], max_tokens=section.max_tokens).encoder
        shards = ShardSet(stage.parents["pack"])
        names = [entry.name.replace("dpixels", "targets") for entry in shards.entries]
        for index, name in track(
            enumerate(names), label="teacher", total=len(names), unit="shards"
        ):
            if not (stage.work / name).exists():
                dpixels = shards.shard(index)
                blocks = embed_blocks(teacher, _blocks(dpixels), workers=section.threads)
                targets = np.concatenate([block.embedding for block in blocks])
                write_targets(stage.work / name, np.asarray(dpixels.pixel_id), targets)
            shutil.copyfile(stage.work / name, stage.build / name)
        write_index(stage.build, names, {"dim": teacher.dim})
        stage.counts |= {"targets": len(shards), "shards": len(names)}

    run_stage(
        "cache_targets",
        body,
        workspace=workspace,
        section=section,
        parents=("pack", "pretrain"),
    )


def _blocks(dpixels: DPixels) -> Iterator[Block]:
    for start in range(0, len(dpixels), BLOCK_DPIXELS):
        rows = np.arange(start, min(start + BLOCK_DPIXELS, len(dpixels)))
        yield rows, dpixels.take(rows)


if __name__ == "__main__":
    stage_main(cache_targets)
