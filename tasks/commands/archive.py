"""Commands that work on data: import an archive, look into any object."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.output import AsJson, talk

app = typer.Typer()


@app.command(
    name="import",
    help="Import tile folders or a point table into an archive.\n\n"
    "SOURCE is a folder with tile folders in the public layout anywhere below it (retiled_d_pixel/<xmin>_<ymin>_<xmax>_<ymax>), "
    "or a Parquet table with one row a d-pixel. It is only read. Days of any width, truth values as masks, Fortran order, unsorted dates "
    "and tiles padded at the edge of a region are put right, and source.json in each tile says what was. "
    "A tile that cannot be imported is listed at the end and costs the exit code, not the other tiles; the same command continues after a crash.\n\n"
    "Examples: tessera import /data/cambridge --out archive --year 2024 | "
    "tessera import fields.parquet --out archive",
)
def import_source(
    source: Annotated[
        Path, typer.Argument(help="Folder of tile folders, or a Parquet table.", exists=True)
    ],
    out: Annotated[Path, typer.Option(help="Archive to add to; made if it is not there.")],
    year: Annotated[
        int | None,
        typer.Option(help="Calendar year of tiles whose path names none.", min=1970, max=2999),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Take data whose numbers look wrong.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import, print a summary, and exit with 1 if anything failed."""
    from tasks.import_archive import import_archive

    with talk(as_json):
        report = import_archive(source, out, year=year or 0, force=force)
    typer.echo(json.dumps(asdict(report)) if as_json else report.render())
    raise typer.Exit(bool(report.failed))


@app.command(
    help="Show what is in an object.\n\n"
    "A tile folder, archive, point table, shard or folder of shards, checkpoint (folder, released .pt, models:/name@alias), stage output, "
    "embedding, validation verdict or record of origin: what it is, is found from its content. "
    "--plot draws the time series of pixels, or an embedding in three colours.\n\n"
    "Examples: tessera inspect data | tessera inspect data/tiles/2021/0_0_32_32 --plot pixels.png --pixels 3,4 --pixels 20,20 | "
    "tessera inspect fields.parquet --plot fields.png --rows 0 --rows 17 | tessera inspect artifacts/pack --verify"
)
def inspect(
    path: Annotated[str, typer.Argument(help="File or folder, or models:/name@alias.")],
    *,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw into.")] = None,
    pixels: Annotated[
        list[str] | None, typer.Option(help="Pixels of a tile to draw: row,column. Repeatable.")
    ] = None,
    rows: Annotated[
        list[int] | None, typer.Option(help="Rows of a table or of shards to draw. Repeatable.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash what is recorded, and compare.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print what is found, and draw it."""
    from tasks.inspect_object import draw_object, inspect_object

    found = inspect_object(path, verify=verify)
    if plot or pixels or rows:
        draw_object(path, plot, pixels=pixels or [], rows=rows or [])
    if as_json:
        typer.echo(json.dumps([finding.to_json() for finding in found]))
        return
    typer.echo("\n\n".join(finding.render() for finding in found))
    if plot:
        typer.echo(f"\nDrawn: {plot}")
