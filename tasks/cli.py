"""The command line ``tessera``: thin doors, each opening one task.

Heavy libraries are imported inside the commands, so that ``tessera --help`` answers at once. A user's
error is one line on standard error and exit code 1; only success exits with 0.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tasks.errors import TesseraError
from tasks.workspace import Workspace, find_workspace

app = typer.Typer(
    name="tessera",
    help="Satellite archives to embedding tiles: run the pipeline, see its state, mend it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command(
    help="Keep the servers up: Prefect (runs) and MLflow (experiments). Ctrl-C stops them.\n\n"
    "Then, in another terminal: prefect deployment run tessera/full --watch"
)
def up() -> None:
    """Keep the servers up until Ctrl-C."""
    from tasks import services

    if addresses := services.running(find_workspace()):
        typer.echo(f"Already up, by {addresses.owner} (process {addresses.pid}).")
        typer.echo(f"Prefect  {addresses.prefect}\nMLflow   {addresses.mlflow or 'not served'}")
        return
    services.up(find_workspace())


@app.command(
    help="Run the whole pipeline: archive to promoted model, embedding tiles and report.\n\n"
    "What is up to date is not run again; after a failure the run continues where it stopped.\n\n"
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
    from tasks.deployment import run_full
    from tasks.outcome import render

    found = run_full(find_workspace(), params=params, archive=data, start=start, force=force)
    typer.echo(json.dumps(found.to_json()) if as_json else "\n" + render(found))


@app.command(
    help="Say what is wrong with this installation or project, and how to mend it.\n\n"
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

    findings = examine(find_workspace(), fix=fix)
    typer.echo(to_json(findings) if as_json else render(findings))
    raise typer.Exit(any(finding.state == "fail" for finding in findings))


@app.command(help="Make the sample archive `data/` that data.dvc pins: the same bytes everywhere.")
def sample() -> None:
    """Write the simulated archive and hold it against its pin."""
    from tasks.sample import make_sample

    typer.echo(make_sample(find_workspace()))


@app.command(
    help="Promote the best candidate of a model, if the gate lets it pass.\n\n"
    "Example: tessera promote tessera-student --to staging"
)
def promote(
    model: Annotated[str, typer.Argument(help="Registered name, e.g. tessera-student.")],
    to: Annotated[str, typer.Option(help="Where to: staging or production.")] = "staging",
    as_json: AsJson = False,
) -> None:
    """Ask the promotion gate."""
    from tasks.promote import promote as ask_gate

    workspace = find_workspace()
    report = ask_gate(workspace, _params_for(workspace, model), to=to)
    typer.echo(json.dumps(report.to_json()) if as_json else report.message)


def main() -> None:
    """Run the command line; a user's error becomes one line and exit code 1."""
    try:
        app()
    except (TesseraError, ValueError) as error:
        sys.exit(f"tessera: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
