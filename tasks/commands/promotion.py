"""Commands of the registry: promote a model, show who is where."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from tasks.commands.output import AsJson, talk
from tasks.workspace import find_workspace

app = typer.Typer()


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
    with talk(as_json):
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

    with talk(as_json):
        versions = list_versions(find_workspace())
    if as_json:
        typer.echo(json.dumps([version.to_json() for version in versions]))
        return
    for v in versions:
        at = ", ".join(v.aliases) or "-"
        typer.echo(f"{v.model} {v.version:>3}  {at:<20} {v.candidate.student:<2} {v.why}")
    if not versions:
        typer.echo("No model is registered yet; `tessera run` registers the first.")
