"""The command that reads catalogues of satellite scenes."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.output import AsJson, talk

app = typer.Typer()


@app.command(
    help="Make tile folders or point tables from a STAC catalogue.\n\n"
    "Tiles are cells of a tenth of a degree on the 10 m grid of their UTM zone, one folder a year: OUT/<year>/grid_<lon>_<lat>. "
    "Only what was asked for of a cell is read. Points become OUT/points/<name>_<year>.parquet, other columns are carried along.\n\n"
    "earth-search and planetary-computer need no account; cdse needs AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_S3_ENDPOINT and AWS_VIRTUAL_HOSTING=FALSE. "
    "Radar comes from sentinel-1-rtc (planetary-computer, static). Reads that time can heal are repeated; what cannot be read is listed and costs the exit code, "
    "and the same command tries it again, and nothing else.\n\n"
    "Examples: tessera ingest --provider planetary-computer --bbox 5.40,50.90,5.60,51.00 --years 2019 --out archive | "
    "tessera ingest --provider static --catalog catalog.json --geometry farm.geojson --years 2019-2021 --out archive --dry-run | "
    "tessera ingest --provider earth-search --points fields.csv --years 2022 --out archive --workers 8"
)
def ingest(
    *,
    provider: Annotated[
        str, typer.Option(help="earth-search, planetary-computer, cdse or static.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for tiles and tables.")],
    catalog: Annotated[
        str,
        typer.Option(
            help="Path or http address of a static catalogue; else another address of the API."
        ),
    ] = "",
    bbox: Annotated[str, typer.Option(help="West,south,east,north in degrees.")] = "",
    geometry: Annotated[
        Path | None, typer.Option(help="GeoJSON file with polygons, in degrees.")
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(help="Parquet or CSV with lon, lat; pixel_id and year if there are any."),
    ] = None,
    years: Annotated[str, typer.Option(help="2019, 2019,2021 or 2019-2021.")] = "",
    collection: Annotated[
        str, typer.Option(help="Optical collection, where a provider has several.")
    ] = "",
    s1_scale: Annotated[
        str,
        typer.Option(help="Radar code: tessera (20 log10, as released) or db10 (10 log10)."),
    ] = "tessera",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Dates read at once; default one a core, at most 8.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Repetitions of a read that may heal, with growing pauses.")
    ] = 4,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, dates and bytes; read no pixel.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Acquire, print a summary, and exit with 1 if anything could not be read."""
    from tasks.acquire import Options, Request, acquire_tiles, open_archive
    from tasks.acquire_points import acquire_points
    from tasks.stac.area import area_of_bbox, area_of_file, years_of

    if sum(map(bool, (bbox, geometry, points))) != 1:
        raise typer.BadParameter("expected one of --bbox, --geometry and --points")
    options = Options(workers or min(8, len(os.sched_getaffinity(0))), retries, dry_run)
    with talk(as_json):
        if points is not None:
            asked = years_of(years) if years else []
            archive = open_archive(Request(provider, catalog, collection, s1_scale), options)
            report = acquire_points(archive, points, asked, out, options)
        else:
            area = area_of_bbox(bbox) if geometry is None else area_of_file(geometry)
            asked = years_of(years)
            archive = open_archive(Request(provider, catalog, collection, s1_scale), options)
            report = acquire_tiles(archive, area, asked, out, options)
    typer.echo(json.dumps(report.to_json()) if as_json else report.render())
    raise typer.Exit(bool(report.unread))
