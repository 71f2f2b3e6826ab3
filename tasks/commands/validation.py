"""Commands that hold data against data: drift between corpora, ground shared with labels."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from tasks.commands.output import AsJson, talk
from tasks.workspace import find_workspace

app = typer.Typer()


@app.command(
    help="Say how far a corpus is from another.\n\n"
    "Compares levels of each band, season, and observations per d-pixel of two packs, or the tiles of two "
    "validated archives; each figure beside what chance alone would give. Exit code 1 means that a "
    "Kolmogorov-Smirnov distance is above the limit.\n\n"
    "Examples: tessera drift artifacts/pack earlier/statistics.json | "
    "tessera drift artifacts/validate other/artifacts/validate --max-drift 0.3 --json"
)
def drift(
    corpus: Annotated[
        Path, typer.Argument(help="statistics.json, a pack, or a validated archive.")
    ],
    reference: Annotated[Path, typer.Argument(help="What to hold it against, of the same kind.")],
    max_drift: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest Kolmogorov-Smirnov distance.")
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Compare, print, and exit with 1 above the limit."""
    from tasks.compare_corpora import compare_corpora

    with talk(as_json):
        report = compare_corpora(corpus, reference, max_drift=max_drift)
    typer.echo(json.dumps(report.to_json()) if as_json else report.render())
    raise typer.Exit(not report.verdict.success)


@app.command(
    name="check-split",
    help="Find held-out labels that training has seen.\n\n"
    "Holds the pixels of a packed corpus against labels, by blocks of ground: the same pixel, the same block, "
    "or the same block in another year. Exit code 1 means that there is a leak.\n\n"
    "Examples: tessera check-split --corpus artifacts/pack --labels plots.parquet | "
    "tessera check-split --corpus artifacts/pack --labels /archive/test --block-m 5000 --years same --json",
)
def check_split(
    *,
    labels: Annotated[
        Path, typer.Option(help="Archive with labels, or Parquet table with lon, lat, year.")
    ],
    corpus: Annotated[
        str | None, typer.Option(help="Packed corpus, folder or s3://; default this project's.")
    ] = None,
    block_m: Annotated[int, typer.Option(help="Side of a block of ground, in metres.")] = 1000,
    years: Annotated[
        Literal["same", "any"],
        typer.Option(help="Whether ground that is trained on in another year is a leak: any."),
    ] = "any",
    as_json: AsJson = False,
) -> None:
    """Check, print, and exit with 1 on a leak."""
    from tasks.check_split import check_split as check
    from tasks.check_split import require_lineage
    from tasks.ingest import read_catalogue

    workspace = find_workspace()
    with talk(as_json):
        ingested, where = workspace.output("ingest"), corpus or str(workspace.output("pack"))
        require_lineage(where, ingested)
        catalogue = read_catalogue(workspace, ingested)
        report = check(catalogue, where, labels, block_m=block_m, years=years)
    typer.echo(json.dumps(report.to_json()) if as_json else report.render())
    raise typer.Exit(not report.verdict.success)
