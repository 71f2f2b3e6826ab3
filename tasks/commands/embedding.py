"""Commands that use models: embed, show the family, package."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.output import AsJson, talk

app = typer.Typer()


@app.command(
    help="Make embeddings of tile folders or of a point table.\n\n"
    "The checkpoint is a folder of this project, a released .pt file (student or teacher), or models:/name@alias. "
    "A tile that cannot be read is listed at the end and costs the exit code, not the other tiles. "
    "What is finished is kept, so the same command continues after a crash.\n\n"
    "Examples: tessera embed --checkpoint artifacts/distill/S --tiles data --out maps | "
    "tessera embed --checkpoint student_small.pt --tiles tiles --out maps --dim 64 --int8 --precision int8 | "
    "tessera embed --checkpoint models:/tessera-student@staging --points fields.parquet --out fields-128.parquet"
)
def embed(
    *,
    checkpoint: Annotated[str, typer.Option(help="Folder, .pt file, or models:/name@alias.")],
    out: Annotated[Path, typer.Option(help="Folder for tiles, file for points.")],
    tiles: Annotated[
        Path | None, typer.Option(help="Folder with tile folders anywhere below it.")
    ] = None,
    points: Annotated[Path | None, typer.Option(help="Parquet table, one row a d-pixel.")] = None,
    dim: Annotated[
        int | None, typer.Option(help="Coordinates to keep: a trained prefix; default all.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Write int8 codes and scales.")] = False,
    precision: Annotated[
        str, typer.Option(help="Compute in float32, int8 or bfloat16.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads, one a core; default all usable cores.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Take data that look wrong or are for other statistics.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Embed, print a summary, and exit with 1 if anything failed."""
    from tasks.checkpoints import open_checkpoint
    from tasks.embed import embed_tiles
    from tasks.embed_points import embed_points
    from tasks.embedding.blocks import usable_cores
    from tasks.embedding.report import Options

    with talk(as_json):
        given = [(embed_tiles, tiles), (embed_points, points)]
        chosen = [(embed_what, source) for embed_what, source in given if source is not None]
        if len(chosen) != 1:
            raise typer.BadParameter("expected either --tiles or --points")
        opened = open_checkpoint(checkpoint, precision=precision, device=device)
        options = Options(
            opened.encoder.dim if dim is None else dim,
            as_codes=int8,
            workers=workers or (usable_cores() if device == "cpu" else 1),
            force=force,
        )
        (embed_what, source), *_ = chosen
        report = embed_what(opened, source, out, options)
    typer.echo(json.dumps(asdict(report)) if as_json else report.render())
    raise typer.Exit(bool(report.failed))


@app.command(
    help="Show the sizes there are, and what each costs.\n\n"
    "Parameters, arithmetic of one d-pixel, memory, bytes of an embedding at each prefix, and H100-years of one year of the planet.\n\n"
    "Examples: tessera models | tessera models --s2 70 --s1 120"
)
def models(
    s2: Annotated[int, typer.Option(help="Sentinel-2 observations of the d-pixel.")] = 63,
    s1: Annotated[int, typer.Option(help="Sentinel-1 observations of the d-pixel.")] = 110,
    as_json: AsJson = False,
) -> None:
    """List every preset, students then teachers."""
    from models.cost import Observations
    from tasks.family import family, render

    members = family(Observations(num_s2=s2, num_s1=s1))
    rows = [member.to_json() for member in members]
    typer.echo(json.dumps(rows) if as_json else render(members))


@app.command(
    help="Write a student as one file that runs without this project.\n\n"
    "A .onnx file needs onnxruntime alone, a .pt2 file torch alone. It is compared with torch before it is written; docs/portable.md says how it is used.\n\n"
    "Example: tessera package artifacts/distill/S --out student.onnx"
)
def package(
    checkpoint: Annotated[
        str,
        typer.Argument(help="Folder of a student, a released .pt file, or models:/name@alias."),
    ],
    out: Annotated[Path, typer.Option(help="File to write, e.g. student.onnx or student.pt2.")],
    form: Annotated[
        str | None,
        typer.Option("--format", help="onnx or torch; without it, what the file name says."),
    ] = None,
) -> None:
    """Package a student and say how far it is from torch."""
    from tasks.portable import package_student

    written = package_student(checkpoint, out, form)
    typer.echo(
        f"{written.path}: {written.size_bytes / 1e6:.1f} MB; "
        f"largest difference from torch {written.difference:.1e}"
    )
