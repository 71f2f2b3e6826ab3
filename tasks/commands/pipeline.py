"""Commands that run the pipeline and keep it in order."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.output import AsJson, talk
from tasks.workspace import find_workspace

app = typer.Typer()


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

    with talk(as_json):
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

    with talk(as_json):
        findings = examine(find_workspace(), fix=fix)
    typer.echo(to_json(findings) if as_json else render(findings))
    raise typer.Exit(any(finding.state == "fail" for finding in findings))


@app.command(
    help="Make the sample archive.\n\nWrites data/ with the bytes that data.dvc pins.\n\n"
    "Example: tessera sample"
)
def sample() -> None:
    """Write the simulated archive and hold it against its pin."""
    from tasks.sample import make_sample

    typer.echo(make_sample(find_workspace()))
