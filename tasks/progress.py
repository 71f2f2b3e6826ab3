"""Progress that suits where it is read: a bar in a terminal, plain lines anywhere else.

Lines go to standard output unbuffered, so that DVC and Prefect show them while a stage runs.
"""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

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


class Meter:
    """Progress of encoding: d-pixels and tokens, their rates, and the time that is left.

    Args:
        label: What is being done.
        total: D-pixels of the whole work; what is skipped counts towards it.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._done = self.dpixels = self.tokens = 0
        self._started = self._said = time.monotonic()
        self._bar = _rate_bar() if sys.stdout.isatty() else None
        if self._bar:
            self._task = self._bar.add_task(label, total=total, rates="")
            self._bar.start()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return max(time.monotonic() - self._started, 1e-9)

    @property
    def rates(self) -> str:
        """D-pixels and tokens a second since the start."""
        return f"{self.dpixels / self.seconds:,.0f} px/s {self.tokens / self.seconds:,.0f} tokens/s"

    def skip(self, dpixels: int) -> None:
        """Count d-pixels that need no work."""
        self._done += dpixels

    def skip_to(self, done: int) -> None:
        """Count d-pixels up to this place in the whole work, whatever became of them."""
        self._done = max(self._done, done)

    def advance(self, dpixels: int, tokens: int) -> None:
        """Count d-pixels that were encoded, and their observations."""
        self._done, self.dpixels, self.tokens = (
            self._done + dpixels,
            self.dpixels + dpixels,
            self.tokens + tokens,
        )
        if self._bar:
            self._bar.update(self._task, completed=self._done, rates=self.rates)
        elif time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            left = self.seconds / self.dpixels * max(0, self._total - self._done)
            done = f"{self._done:,}/{self._total:,} d-pixels"
            say(f"{self._label}: {done}  {self.rates}  {left:,.0f} s left")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            self._bar.stop()


def _rate_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("d-pixels {task.fields[rates]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(file=sys.stdout),
    )


class ByteMeter:
    """Progress of moving bytes, from any number of threads.

    Args:
        label: What is being done.
        total: Bytes of the whole work.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self.bytes = 0
        self._lock = threading.Lock()
        self._started = self._said = time.monotonic()
        self._bar = _byte_bar() if sys.stdout.isatty() else None

    def __enter__(self) -> Self:
        if self._bar:
            self._task = self._bar.add_task(self._label, total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, num_bytes: int) -> None:
        """Count bytes that were moved."""
        with self._lock:
            self.bytes += num_bytes
            now = time.monotonic()
            if self._bar:
                self._bar.update(self._task, completed=self.bytes)
            elif now - self._said > _LINE_EVERY_S:
                self._said = now
                rate = self.bytes / (now - self._started)
                left = max(0, self._total - self.bytes) / rate
                done = f"{self.bytes / 1e6:,.0f}/{self._total / 1e6:,.0f} MB"
                say(f"{self._label}: {done}  {rate / 1e6:,.0f} MB/s  {left:,.0f} s left")


def _byte_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stdout),
    )
