"""Commands that run experiments beside the pipeline."""

import json
import subprocess
from typing import Annotated

import typer

from tasks.commands.output import AsJson, talk
from tasks.workspace import find_workspace

app = typer.Typer()


@app.command(
    help="Run the control experiments: what makes a prefix usable.\n\n"
    "Trains a student at its full length only and a teacher with prefix losses, for each of controls.seeds, and scores them beside the pipeline's student and the teacher's principal components. What the pipeline has not made yet is made first; what is up to date is not run again. Results are in artifacts/controls, docs/controls.md says what they mean.\n\n"
    "Examples: tessera controls | tessera controls --force | tessera controls --json"
)
def controls(
    force: Annotated[bool, typer.Option(help="Train again even if nothing has changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the stage ``controls`` up to date and print its table."""
    from tasks.controlling.page import RESULTS, render
    from tasks.errors import StageFailed
    from tasks.running.graph import ON_DEMAND
    from tasks.running.processes import python

    workspace = find_workspace()
    with talk(as_json):
        options = ["--force", "--single-item"] if force else []
        command = python("dvc", "--wait-for-lock", "repro", *options, ON_DEMAND)
        done = subprocess.run(
            command, cwd=workspace.root, env=workspace.environment(), stdout=2, check=False
        )
    if done.returncode:
        raise StageFailed(
            "the experiments to end well",
            found=f"exit code {done.returncode}",
            where="the stage controls",
            mend="The messages above say why; running it again goes on where it stopped.",
        )
    content = json.loads((workspace.output("controls") / RESULTS).read_text())
    typer.echo(json.dumps(content) if as_json else "\n" + render(content))
