"""Run the frozen teacher once over the corpus and keep its embeddings as targets.

Row i of ``targets-<n>.arrow`` belongs to row i of ``dpixels-<n>.arrow``, and both carry the pixel
id, so a mismatch is found out when they are joined. The teacher sees all observations of a d-pixel,
padded to the bucket ladder. Finished shards survive a crash.
"""

import shutil

import numpy as np
import torch

from models.checkpoint import ladder_of, load_teacher, normalisation_of, read_checkpoint
from models.encode import encode
from tasks.params import Params
from tasks.progress import track
from tasks.shards import ShardSet, write_index, write_targets
from tasks.stage import Stage, run_stage, stage_main
from tasks.workspace import Workspace


def cache_targets(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    section = params.cache_targets

    def body(stage: Stage) -> None:
        torch.set_num_threads(section.threads)
        folder = stage.parents["pretrain"]
        teacher, (_, config) = load_teacher(folder).eval(), read_checkpoint(folder)
        shards = ShardSet(stage.parents["pack"])
        names = [entry.name.replace("dpixels", "targets") for entry in shards.entries]
        for index, name in track(
            enumerate(names), label="teacher", total=len(names), unit="shards"
        ):
            if not (stage.work / name).exists():
                dpixels = shards.shard(index)
                targets = encode(
                    teacher,
                    dpixels,
                    normalisation_of(config),
                    ladder_of(config),
                    max_tokens=section.max_tokens,
                )
                write_targets(stage.work / name, np.asarray(dpixels.pixel_id), targets)
            shutil.copyfile(stage.work / name, stage.build / name)
        write_index(stage.build, names, {"dim": teacher.config.repr_dim})
        stage.counts |= {"targets": len(shards), "shards": len(names)}

    run_stage(
        "cache_targets",
        body,
        workspace=workspace,
        section=section,
        parents=("pack", "pretrain"),
    )


if __name__ == "__main__":
    stage_main(cache_targets)
