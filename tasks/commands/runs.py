"""Commands that look at earlier runs: list them, set them side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tasks.commands.output import AsJson, talk
from tasks.workspace import find_workspace

app = typer.Typer()
runs = typer.Typer(rich_markup_mode=None)
app.add_typer(runs, name="runs")


@runs.callback(
    invoke_without_command=True,
    help="List earlier runs, or compare some.\n\n"
    "Runs of the stages, newest first, each with the few numbers that it is remembered by.\n\n"
    "Examples: tessera runs | tessera runs --stage distill --limit 8 | tessera runs --json | "
    "tessera runs compare pretrain~1 pretrain",
)
def list_(
    context: typer.Context,
    stage: Annotated[
        str | None, typer.Option(help="Only of this stage; distill means all sizes.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    everyone: Annotated[
        bool, typer.Option("--all", help="Runs of other project folders in the store too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List runs, unless a command follows."""
    if context.invoked_subcommand:
        return
    from tasks.compare_runs import describe, key_numbers
    from tasks.run_history import list_runs

    with talk(as_json):
        found = list_runs(find_workspace(), stage=stage, limit=limit, everyone=everyone)
    if as_json:
        typer.echo(json.dumps([run.to_json() for run in found]))
        return
    for run in found:
        typer.echo(f"{describe(run)}  {key_numbers(run)}".rstrip())
    if not found:
        typer.echo("No stage has run yet: tessera run")


@runs.command(
    help="Set runs side by side.\n\n"
    "Settings, inputs and code are shown where they differ, the last numbers all. "
    "A run is named by its id or the beginning of it, by its stage (the last that went well or still goes), "
    "or by stage~1 for the one before. Differences are against the first.\n\n"
    "Examples: tessera runs compare pretrain~1 pretrain | tessera runs compare 3f2a9c1d distill@S --json | "
    "tessera runs compare distill@N distill@S distill@M distill@L --plot sizes.png"
)
def compare(
    names: Annotated[list[str], typer.Argument(help="At least two runs.")],
    plot: Annotated[
        Path | None, typer.Option(help="Picture of loss and probe by step to write, e.g. runs.png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs."""
    from tasks.compare_runs import compare_runs, curves, render

    if len(names) < 2:
        raise typer.BadParameter(f"expected at least two runs, got {len(names)}")
    workspace = find_workspace()
    with talk(as_json):
        found = compare_runs(workspace, names)
        if plot is not None:
            from tasks.reporting.overlay import draw_overlay

            draw_overlay(curves(workspace, found.runs), plot)
    typer.echo(json.dumps(found.to_json()) if as_json else render(found))
