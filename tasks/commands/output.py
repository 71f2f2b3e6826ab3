"""What all commands share: the option ``--json`` and where talk goes while it is given."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@contextmanager
def talk(as_json: bool) -> Iterator[None]:
    """Send what is said on the way to standard error if standard output is to be JSON."""
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        yield
