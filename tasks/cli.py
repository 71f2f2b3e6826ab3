"""The command line ``tessera``: thin doors, each opening one task.

Heavy libraries are imported inside the commands, so that ``tessera --help`` answers at once. A user's
error is one line on standard error and exit code 1; only success exits with 0. With ``--json`` standard
output is one JSON document and nothing else.
"""

import sys

import typer

from tasks.commands import (
    acquisition,
    archive,
    embedding,
    experiments,
    pipeline,
    promotion,
    runs,
    storage,
    targets,
    validation,
)
from tasks.errors import PromotionRefused, TesseraError

app = typer.Typer(
    name="tessera",
    help="Satellite archives to embedding tiles: run the pipeline, see its state, mend it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (
    *(pipeline, acquisition, archive, embedding, experiments, promotion, runs, storage, targets),
    validation,
):
    app.add_typer(group.app)

_REFUSED_EXIT = 3


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
