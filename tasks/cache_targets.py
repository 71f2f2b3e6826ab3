"""Run the frozen teacher once over the corpus and keep its embeddings as targets.

``targets-<n>.arrow`` has the rows of ``dpixels-<n>.arrow`` in the same blocks, and both carry the
pixel id, so a mismatch is found out when they are joined. The teacher sees all observations of a
d-pixel, padded to the bucket ladder.

The one idea: the targets of a shard are kept in a store under a digest of all that they follow from
(`tasks.targets.address`). What is there already, from an earlier run, another project or a run that
was killed, is verified and linked; only the rest costs the teacher. Targets that are not finite or
have collapsed end the stage by name.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.files import write_json
from tasks.params import Params
from tasks.progress import say
from tasks.settings.products import CacheTargetsParams
from tasks.shards.index import write_index
from tasks.stage import Stage, run_stage, stage_main
from tasks.streaming.corpus import Corpus, open_output
from tasks.targets.address import Address, preprocessing_digest, preprocessing_facts
from tasks.targets.collecting import collect_targets
from tasks.targets.making import group_rows
from tasks.targets.report import DIAGNOSTICS, describe, metrics_of, summary
from tasks.targets.spread import require_spread
from tasks.targets.store import TargetStore
from tasks.targets.teacher import open_foreign
from tasks.workspace import Workspace


def cache_targets(workspace: Workspace, params: Params) -> None:
    """Run the stage.

    Raises:
        TargetsUnfit: A target is not finite or not of norm sqrt(d), or all together have collapsed.
        ParamsError, DigestMismatch: The teacher that the settings name is not that of its digest.
    """
    section = params.cache_targets
    foreign = open_foreign(workspace, section) if section.teacher else None

    def body(stage: Stage) -> None:
        teacher = foreign or open_checkpoint(
            stage.parents["pretrain"], max_tokens=section.max_tokens, device=section.device
        )
        corpus = open_output("pack", stage.parents["pack"], workspace.shards, "dpixels")
        store = TargetStore(workspace.target_store)
        content, cost = write_targets(store, teacher, corpus, stage.build, section)
        stage.counts |= content["counts"]
        stage.measured["targets"] = cost
        stage.tracker.log_metrics(metrics_of(content, cost))
        say(summary(content, cost))

    run_stage(
        "cache_targets",
        body,
        workspace=workspace,
        section=section,
        parents=("pack", *([] if foreign else ["pretrain"])),
        inputs={"teacher": foreign.digest} if foreign else {},
    )


def write_targets(
    store: TargetStore,
    teacher: Checkpoint,
    corpus: Corpus,
    folder: Path,
    section: CacheTargetsParams,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fill a folder with the targets of a corpus.

    Args:
        store: Where targets are looked for and kept.
        teacher: Whose embeddings they are.
        corpus: The d-pixels.
        folder: Empty; gets shards, index and ``targets.json``.
        section: Settings.

    Returns:
        The content of ``targets.json``, and what this run cost.

    Raises:
        TargetsUnfit: As ``cache_targets``.
        ShardDamaged, StorageError: A block of d-pixels cannot be read.
    """
    preprocessing = preprocessing_facts(teacher.encoder, group_rows(corpus))
    named = {
        shard.name.replace("dpixels", "targets"): Address(
            teacher.digest, preprocessing_digest(preprocessing), shard.sha256, section.dtype
        )
        for shard in corpus.index.shards
    }
    collected = collect_targets(
        *(store, teacher.encoder, corpus),
        [(address, folder / name) for name, address in named.items()],
        workers=section.threads,
    )
    require_spread(
        collected.moments,
        min_effective_rank=section.min_effective_rank,
        max_dead_share=section.max_dead_share,
        where=f"the targets of teacher {teacher.digest[:12]}",
    )
    entries = dict(zip(named, collected.entries, strict=True))
    shards = [(replace(entry.shard, name=name), entry.blocks) for name, entry in entries.items()]
    facts = {"dim": teacher.encoder.dim, "dtype": section.dtype}
    write_index(folder, "targets", corpus.block_rows, shards, facts)
    content = describe(teacher, preprocessing, section.dtype, entries)
    write_json(folder / DIAGNOSTICS, content)
    return content, collected.cost


if __name__ == "__main__":
    stage_main(cache_targets)
