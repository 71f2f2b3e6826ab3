"""Commands that look after stored data: verify the remote or this checkout."""

import json
from typing import Annotated

import typer

from tasks.commands.output import AsJson, talk
from tasks.workspace import find_workspace

app = typer.Typer()


@app.command(
    help="Read what DVC has stored and say what is missing or damaged.\n\n"
    "Every object that dvc.lock and the .dvc files reference is read from the remote and hashed; what is wrong is named by its file in the project. "
    "Where a stage wrote a manifest, its SHA-256 counts as well. Exit code 1 if anything is wrong. docs/storage.md says how a remote is mended.\n\n"
    "Examples: tessera verify | tessera verify pack data.dvc --remote backup | tessera verify --sample 50 | "
    "tessera verify --local | tessera verify --quarantine"
)
def verify(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Stages, .dvc files or paths; everything without any."),
    ] = None,
    *,
    remote: Annotated[
        str | None, typer.Option(help="Name of the DVC remote; the default one without it.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Verify this checkout and its cache instead.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Read this many files, drawn anew each time; look up all."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Objects read at once, about 16 MiB of memory each.")
    ] = 8,
    quarantine: Annotated[
        bool,
        typer.Option("--quarantine", help="Move wrong objects aside, for `dvc push` to replace."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify, print what is wrong, and exit with 1 if anything is."""
    from tasks.verify import verify_local, verify_remote

    if local and (remote or quarantine):
        raise typer.BadParameter("--local looks at no remote: leave out --remote and --quarantine")
    workspace, chosen = find_workspace(), targets or []
    with talk(as_json):
        if local:
            report = verify_local(workspace, chosen, workers=workers, sample=sample)
        else:
            report = verify_remote(
                workspace,
                chosen,
                remote=remote,
                workers=workers,
                sample=sample,
                quarantine=quarantine,
            )
    typer.echo(json.dumps(report.to_json()) if as_json else report.render())
    raise typer.Exit(bool(report.faults))
