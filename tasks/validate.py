"""Validate the archive: measure every tile, hold the statistics to a suite, keep the verdict.

Outputs: ``verdict.json`` (every failure with tile, band, expectation, found, expected),
``index.html`` (the same for people, readable offline), one CSV of statistics a table, and maps of
observation counts in ``observations/`` (``tasks.validation.observations``). They hold no time and no
path, so equal archives give equal bytes. Great Expectations' own pages do hold the
time, so they go to ``.tessera/validation/archive``, together with a copy of the verdict: a stage
that fails has no output, and its verdict is needed most then.
"""

import shutil
from pathlib import Path

import pandas as pd

from tasks.errors import ValidationFailed
from tasks.files import write_bytes, write_json
from tasks.ingest import Catalogue, read_catalogue
from tasks.params import Params
from tasks.progress import say, track
from tasks.settings.data import ValidateParams
from tasks.stage import Stage, run_stage, stage_main
from tasks.validation.checks import Check, archive_checks, dpixel_checks
from tasks.validation.expectations import judge
from tasks.validation.map_page import render_maps
from tasks.validation.observations import ObservationMaps
from tasks.validation.point_tables import measure_points
from tasks.validation.tables import Tables, measure_archive
from tasks.validation.verdict import Verdict
from tasks.validation.verdict_page import render
from tasks.workspace import Workspace

VERDICT = "verdict.json"
PAGE = "index.html"
OBSERVATIONS = "observations"


class ValidateSection(ValidateParams):
    """What the output depends on: the stage's section, and the packer's minima for the maps."""

    pack_min_s2: int
    pack_min_s1: int


def judge_archive(
    catalogue: Catalogue,
    params: ValidateParams,
    *,
    docs: Path | None = None,
    maps: ObservationMaps | None = None,
) -> tuple[Verdict, Tables]:
    """Measure and judge all tiles of a catalogue, and read its point tables.

    Args:
        catalogue: The archive, as ingested.
        params: Limits.
        docs: Folder for Great Expectations' pages; None to write none.
        maps: Takes the maps of observation counts; None to make none.

    Returns:
        The verdict, and the statistics that it was reached on.

    Raises:
        DigestMismatch: The archive changed since it was ingested.
    """
    indices = track(range(len(catalogue)), label="validate", total=len(catalogue), unit="tiles")
    checks = archive_checks(params)
    measured = measure_archive(catalogue, indices, maps)
    if catalogue.tables:
        files, measured["points"] = measure_points(catalogue)
        measured["files"] = pd.concat([measured["files"], files], ignore_index=True)
        checks += dpixel_checks("points")
    tables = {name: _with_columns(table, checks, name) for name, table in measured.items()}
    tiles = len(catalogue)  # none is legal beside point tables
    least = {"files": 1, "tiles": tiles, "series": tiles, "bands": min(1, tiles)}
    return judge(tables, checks, {name: least.get(name, 0) for name in tables}, docs=docs), tables


def _with_columns(table: pd.DataFrame, checks: tuple[Check, ...], name: str) -> pd.DataFrame:
    """Add empty columns for what no tile of this archive has: an archive without radar is legal."""
    wanted = [check.column for check in checks if check.table == name]
    return table.reindex(columns=list(dict.fromkeys([*table.columns, *wanted])))


def write_verdict(folder: Path, verdict: Verdict, tables: Tables, maps: str) -> None:
    """Write the verdict, its page and the statistics into a folder, deterministically.

    Args:
        folder: Where to.
        verdict: What was found.
        tables: The statistics.
        maps: Section of the page with the maps of observation counts.
    """
    write_json(folder / VERDICT, verdict.as_dict())
    write_bytes(folder / PAGE, render(verdict, tables, maps).encode())
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_bytes(folder / f"{name}.csv", text.encode())


def validate(workspace: Workspace, params: Params) -> None:
    """Run the stage.

    Raises:
        ValidationFailed: An expectation was broken; the message names the first failures and the
            path of the whole verdict.
    """

    def body(stage: Stage) -> None:
        catalogue = read_catalogue(workspace, stage.parents["ingest"])
        kept = workspace.state / "validation" / "archive"
        shutil.rmtree(kept, ignore_errors=True)
        maps = ObservationMaps(kept / OBSERVATIONS, params.pack.min_s2, params.pack.min_s1)
        verdict, tables = judge_archive(
            catalogue, params.validate_, docs=kept / "data_docs", maps=maps
        )
        drawn = render_maps(maps, tables["tiles"])
        write_verdict(kept, verdict, tables, drawn)
        for name in (VERDICT, PAGE):
            stage.tracker.log_file(kept / name)
        say(f"validate: {verdict.summary()}; pages: {kept / 'data_docs' / PAGE}")
        if not verdict.success:
            raise ValidationFailed(
                f"an archive that meets all {len(verdict.checks)} expectations",
                found=verdict.summary(),
                where=str(catalogue.archive),
                mend=f"Mend or remove these tiles, then: dvc repro validate. "
                f"The whole verdict: {kept / VERDICT} (to look at: {kept / PAGE})",
            )
        write_verdict(stage.build, verdict, tables, drawn)
        if maps.folder.is_dir():  # none without tiles
            shutil.copytree(maps.folder, stage.build / OBSERVATIONS)
        stage.counts |= {
            "tiles": len(catalogue),
            "table_rows": sum(table.rows for table in catalogue.tables),
            "expectations": len(verdict.checks),
            "values_judged": sum(check.judged for check in verdict.checks),
        }

    minima = {"pack_min_s2": params.pack.min_s2, "pack_min_s1": params.pack.min_s1}
    section = ValidateSection.model_validate(dict(params.validate_) | minima)
    run_stage("validate", body, workspace=workspace, section=section, parents=("ingest",))


if __name__ == "__main__":
    stage_main(validate)
