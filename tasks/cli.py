"""The command line ``tessera``: thin doors, each opening one task.

Heavy libraries are imported inside the commands, so that ``tessera --help`` answers at once. A user's
error is one line on standard error and exit code 1; only success exits with 0. With ``--json`` standard
output is one JSON document and nothing else.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tasks.errors import PromotionRefused, TesseraError
from tasks.workspace import find_workspace

app = typer.Typer(
    name="tessera",
    help="Satellite archives to embedding tiles: run the pipeline, see its state, mend it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_REFUSED_EXIT = 3

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@contextmanager
def _talk(as_json: bool) -> Iterator[None]:
    """Send what is said on the way to standard error if standard output is to be JSON."""
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        yield


@app.command(
    help="Keep the servers up until Ctrl-C.\n\n"
    "Prefect shows the runs, MLflow the experiments. "
    "What is served already is used as it is: another Prefect server by PREFECT_API_URL, another MLflow by MLFLOW_TRACKING_URI.\n\n"
    "Example: tessera up, and in another terminal: prefect deployment run tessera/full --watch"
)
def up() -> None:
    """Keep the servers up until Ctrl-C."""
    from tasks.serving import services

    if addresses := services.running(find_workspace()):
        typer.echo(f"Already up, by {addresses.owner} (process {addresses.pid}).")
        typer.echo(f"Prefect  {addresses.prefect}\nMLflow   {addresses.mlflow or 'not served'}")
        return
    services.up(find_workspace())


@app.command(
    help="Run the whole pipeline.\n\n"
    "From the archive to a promoted model, embedding tiles and the report. What is up to date is not run again; after a failure the run continues where it stopped.\n\n"
    "Examples: tessera run | tessera run --data /archive/tiles | tessera run --start evaluate"
)
def run(
    data: Annotated[
        Path | None,
        typer.Option(help="Use this folder of tile folders from now on.", exists=True),
    ] = None,
    params: Annotated[
        Path | None, typer.Option(help="Use this settings file from now on.", exists=True)
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Start at this stage; what is before it must be up to date."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Run stages even if nothing has changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the deployment ``tessera/full`` and print what it came to."""
    from tasks.running.deployment import run_full
    from tasks.running.outcome import render

    with _talk(as_json):
        found = run_full(find_workspace(), params=params, archive=data, start=start, force=force)
    typer.echo(json.dumps(found.to_json()) if as_json else "\n" + render(found))


@app.command(
    help="Say what is wrong here, and how to mend it.\n\n"
    "Looks at the installation, the data, and what a crash has left behind.\n\n"
    "Examples: tessera doctor | tessera doctor --fix"
)
def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended without losing anything.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the findings; exit with 1 if one of them is a failure."""
    from tasks.doctor import examine, render, to_json

    with _talk(as_json):
        findings = examine(find_workspace(), fix=fix)
    typer.echo(to_json(findings) if as_json else render(findings))
    raise typer.Exit(any(finding.state == "fail" for finding in findings))


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

    with _talk(as_json):
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
    help="Make the sample archive.\n\nWrites data/ with the bytes that data.dvc pins.\n\n"
    "Example: tessera sample"
)
def sample() -> None:
    """Write the simulated archive and hold it against its pin."""
    from tasks.sample import make_sample

    typer.echo(make_sample(find_workspace()))


@app.command(
    help="Promote a model through the gate.\n\n"
    "The best student goes to staging; what staging holds goes to production. "
    "Exit code 3 means that the gate kept the incumbent, and says why.\n\n"
    "Example: tessera promote tessera-student --to staging"
)
def promote(
    model: Annotated[str, typer.Argument(help="Registered name, e.g. tessera-student.")],
    to: Annotated[str, typer.Option(help="Where to: staging or production.")] = "staging",
    as_json: AsJson = False,
) -> None:
    """Ask the promotion gate."""
    from tasks.params import read_params
    from tasks.promote import promote as ask_gate

    workspace = find_workspace()
    params = read_params(workspace.params)
    named = params.promote.model_copy(update={"model": model})
    with _talk(as_json):
        done = ask_gate(workspace, params.model_copy(update={"promote": named}), to=to)
    text = f"{done.model} version {done.version} is {done.alias}: {done.text}"
    typer.echo(json.dumps(asdict(done)) if as_json else text)


@app.command(
    help="Show which model is where, and why.\n\n"
    "Examples: tessera registry | tessera registry --json"
)
def registry(as_json: AsJson = False) -> None:
    """List every version of every registered model."""
    from tasks.registry import registry as list_versions

    with _talk(as_json):
        versions = list_versions(find_workspace())
    if as_json:
        typer.echo(json.dumps([version.to_json() for version in versions]))
        return
    for v in versions:
        at = ", ".join(v.aliases) or "-"
        typer.echo(f"{v.model} {v.version:>3}  {at:<20} {v.candidate.student:<2} {v.why}")
    if not versions:
        typer.echo("No model is registered yet; `tessera run` registers the first.")


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


def main() -> None:
    """Run the command line; a user's error becomes one line and a non-zero exit code."""
    try:
        app(prog_name="tessera")
    except PromotionRefused as error:
        sys.stderr.write(f"tessera: PromotionRefused: {error}\n")
        sys.exit(_REFUSED_EXIT)
    except (TesseraError, ValueError, OSError) as error:
        sys.exit(f"tessera: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
