"""Pack the archive into shards of d-pixels, shuffled across all its tiles and tables.

The order of the corpus is that of a hash of (seed, pixel id). Two passes make it, so that no machine
has to hold all d-pixels: ``tasks.packing.scatter`` reads the archive once and leaves ordered runs,
``tasks.packing.gather`` merges them into shards. Both go on where a killed attempt stopped, a run or a
shard at a time. Labels never enter a shard.

Output: shards ``dpixels-00000.arrow`` (``tasks.shards``), ``blocks.arrow``, ``verdict.json``,
``statistics.json``, ``normalisation.json``, and ``index.json``, written last.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.errors import DataError, ValidationFailed
from tasks.files import link_file, write_json
from tasks.ingest import Catalogue, read_catalogue
from tasks.packing.description import Facts, describe, flat_counts, summary
from tasks.packing.gather import gather, read_shards, shard_names, unfinished
from tasks.packing.mixing import batch_rows, merge_mixing
from tasks.packing.normalisation import NORMALISATION, normalisation_facts
from tasks.packing.scatter import Scattered, scatter
from tasks.packing.sources import source_keys
from tasks.packing.spill import open_runs, remove_runs
from tasks.packing.statistics import STATISTICS, merge, summarise
from tasks.params import Params
from tasks.progress import say
from tasks.settings.data import PackParams, ValidateParams
from tasks.shards.index import write_index
from tasks.shards.records import entry_of
from tasks.stage import Stage, run_stage, stage_main
from tasks.validation.drift import drift_verdict
from tasks.validation.expectations import shard_verdict
from tasks.validation.held_out import HeldOut
from tasks.workspace import Workspace


class PackSection(PackParams):
    """What the output depends on: the stage's section, and which ground is held out."""

    held_out_digest: str
    """Of ``HeldOut``; empty for none. A path alone would not show that the labels changed."""


def pack(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    held_out = _open_held_out(workspace, params.pack)

    def body(stage: Stage) -> None:
        catalogue = read_catalogue(workspace, stage.parents["ingest"])
        facts = pack_archive(catalogue, stage.work, stage.build, params.pack, held_out)
        if params.validate_.reference:
            _judge_drift(stage, params.validate_)
        stage.counts |= flat_counts(facts)
        say(summary(facts))

    digest = held_out.digest if held_out else ""
    section = PackSection.model_validate(dict(params.pack) | {"held_out_digest": digest})
    run_stage("pack", body, workspace=workspace, section=section, parents=("ingest", "validate"))


def _open_held_out(workspace: Workspace, params: PackParams) -> HeldOut | None:
    if not params.holdout:
        return None
    path = workspace.root / params.holdout
    return HeldOut.open(path, params.holdout_block_m, params.holdout_years)


def pack_archive(
    catalogue: Catalogue,
    work: Path,
    build: Path,
    params: PackParams,
    held_out: HeldOut | None = None,
) -> Facts:
    """Pack an archive.

    Args:
        catalogue: The archive, as ingested.
        work: Folder of runs and finished shards; an earlier attempt's are used.
        build: Folder to fill. Shards are links to those in ``work``, where the disk can.
        params: Settings of the stage.
        held_out: Ground that is kept for evaluation; None for none.

    Returns:
        What the index says besides shards and blocks.

    Raises:
        DataError: A source breaks its layout, or no d-pixel is thick enough.
        DigestMismatch: The archive changed since it was ingested.
        ParamsError: A shard is more than the memory allows.
        ValidationFailed: A shard breaks an expectation.
    """
    scattered = scatter(catalogue, work / "spill", params, held_out)
    rows = sum(scattered.rows.values())
    if not rows:
        raise _nothing(scattered, params)
    names, shards = shard_names(rows, params), work / "shards"
    if missing := unfinished(shards, names):
        gather(open_runs(work / "spill"), scattered.rows, shards, missing, params)
    with ThreadPoolExecutor(1) as disk:  # removing takes a while, and nothing waits for it
        removed = disk.submit(remove_runs, work / "spill")
        for name in names:
            link_file(shards / name, build / name)
        _judge([record["row"] for record in read_shards(shards, names)], build)
        removed.result()
    statistics = summarise(rows, merge(r["statistics"] for r in read_shards(shards, names)))
    _write_statistics(statistics, build)
    tallied = (record["mixing"] for record in read_shards(shards, names))
    batch = batch_rows(rows, params.block_rows, params.rows_per_shard)
    mixing = merge_mixing(tallied, scattered.rows, batch)
    size = sum((build / name).stat().st_size for name in names)
    facts = describe(source_keys(catalogue), scattered, statistics, mixing, size) | {
        "seed": params.seed
    }
    listed = (entry_of(record) for record in read_shards(shards, names))
    write_index(build, "dpixels", params.block_rows, listed, facts)
    return facts


def _nothing(scattered: Scattered, params: PackParams) -> DataError:
    counted = {reason: n for reason, n in scattered.reasons.items() if n}
    reasons = ", ".join(f"{n} {reason}" for reason, n in counted.items())
    return DataError(
        f"d-pixels with at least {params.min_s2} optical and {params.min_s1} radar observations",
        found=f"none in the whole archive ({reasons or 'it is empty'})",
        where="pack",
        mend="Lower pack.min_s2 or pack.min_s1 in params.yaml (0 accepts an absent sensor)."
        if counted.keys() & {"few_optical", "few_radar"}
        else "Look into the archive (tessera inspect); ground of pack.holdout is left out too.",
    )


def _judge(rows: list[Facts], build: Path) -> None:
    verdict = shard_verdict(rows)
    write_json(build / "verdict.json", verdict.as_dict())
    if not verdict.success:
        raise ValidationFailed(
            "shards that meet every expectation",
            found=verdict.summary(),
            where=str(build / "verdict.json"),
            mend="If the archive passes `validate`, this is a defect of the packing: please report it.",
        )


def _judge_drift(stage: Stage, params: ValidateParams) -> None:
    """Hold the corpus against the reference; the verdict is kept beside those of archives."""
    statistics = json.loads((stage.build / STATISTICS).read_text())
    reference = stage.workspace.root / params.reference
    verdict = drift_verdict(statistics, reference, params.max_drift)
    kept = stage.workspace.state / "validation" / "drift.json"
    write_json(kept, verdict.as_dict())
    stage.tracker.log_file(kept)
    say(f"pack: drift from {params.reference}: {verdict.summary()}")
    if not verdict.success:
        raise ValidationFailed(
            f"a corpus within {params.max_drift:g} of the reference {params.reference}",
            found=verdict.summary(),
            where="pack",
            mend=f"Look at {kept}. If the world is meant to differ, raise validate.max_drift or "
            "name another reference; what is packed is kept, so this is soon judged again.",
        )


def _write_statistics(statistics: Facts, build: Path) -> None:
    write_json(build / STATISTICS, statistics)
    if (normalisation := normalisation_facts(statistics)) is not None:
        write_json(build / NORMALISATION, normalisation)


if __name__ == "__main__":
    stage_main(pack)
