"""Embed a point table with any checkpoint; the door is ``tessera embed --points``.

The one idea: rows are d-pixels, so a table goes through the same blocks as a tile, in its own order,
into one Parquet file that appears when it is whole.

It deliberately does not go on in the middle of a table after a crash: a table is minutes of work.
"""

import os
from pathlib import Path

import numpy as np

from tasks.checkpoints import Checkpoint
from tasks.embedding.blocks import embed_blocks
from tasks.embedding.fidelity import FIDELITY_DPIXELS, FidelityGauge, fidelity_text
from tasks.embedding.plausibility import check_points
from tasks.embedding.point_answers import write_points
from tasks.embedding.report import Options, Report, check_dim
from tasks.errors import ParamsError
from tasks.files import sweep_parts, sync_file, sync_folder
from tasks.points import open_points
from tasks.progress import Meter, say


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
        few = first.take(np.arange(min(len(first), FIDELITY_DPIXELS)))
        report.fidelity[points.name] = FidelityGauge(checkpoint.encoder).measure(few)
        say(fidelity_text(report.fidelity.values()))
    meter = Meter("embed", len(table))
    found = table.blocks() if options.force else check_points(table)
    blocks = embed_blocks(checkpoint.encoder, found, workers=options.workers)
    counted = (report.count(block, meter) for block in blocks)
    out.parent.mkdir(parents=True, exist_ok=True)
    sweep_parts(out)
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
