"""Progress that suits where it is read: a bar in a terminal, plain lines anywhere else.

Lines go to standard output unbuffered, so that DVC and Prefect show them while a stage runs.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 5.0

Item = TypeVar("Item")


def say(line: str) -> None:
    """Print one line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def track(
    items: Iterable[Item], *, label: str, total: int, start: int = 0, unit: str = ""
) -> Iterator[Item]:
    """Yield ``items`` while showing how far along they are.

    Args:
        items: What is worked through.
        label: What is being done, e.g. ``pack``.
        total: Number of steps of the whole work, resumed ones included.
        start: Steps that an earlier run has done.
        unit: What a step is, e.g. ``tiles``.
    """
    if sys.stdout.isatty():
        yield from _bar(items, label=label, total=total, start=start, unit=unit)
    else:
        yield from _lines(items, label=label, total=total, start=start, unit=unit)


def _bar(items: Iterable[Item], *, label: str, total: int, start: int, unit: str) -> Iterator[Item]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stdout)) as progress:
        task = progress.add_task(label, total=total, completed=start)
        for item in items:
            yield item
            progress.advance(task)


def _lines(
    items: Iterable[Item], *, label: str, total: int, start: int, unit: str
) -> Iterator[Item]:
    said = time.monotonic()
    for done, item in enumerate(items, start=start + 1):
        yield item
        now = time.monotonic()
        if now - said > _LINE_EVERY_S or done == total:
            say(f"{label}: {done}/{total} {unit}".rstrip())
            said = now
