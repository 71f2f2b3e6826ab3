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


class Line:
    """One work on its way: a bar in a terminal, a line every few seconds anywhere else.

    Args:
        label: What is being done, e.g. ``train``.
        total: All of it, resumed parts included.
        start: What an earlier run has done.
        unit: What is counted, e.g. ``steps``.
        quiet: Say nothing, as all processes of a training but one.
    """

    def __init__(
        self, label: str, total: int, *, start: int = 0, unit: str = "", quiet: bool = False
    ) -> None:
        self._label, self._total, self._unit, self._quiet = label, total, unit, quiet
        self._done = self._start = start
        self._started = self._said = time.monotonic()
        self._bar = _bar(unit) if sys.stdout.isatty() and not quiet else None
        if self._bar:
            self._task = self._bar.add_task(label, total=total, completed=start, note="")
            self._bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return max(time.monotonic() - self._started, 1e-9)

    def skip(self, count: int) -> None:
        """Count what needed no work, so that it does not make the rest look fast."""
        self._start, self._done = self._start + count, self._done + count

    def skip_to(self, done: int) -> None:
        """Count all up to this place, whatever became of it."""
        self.skip(max(0, done - self._done))

    def advance(self, count: int, note: str = "") -> None:
        """Count what was done, and show it with a remark."""
        self.show(self._done + count, note)

    def show(self, done: int, note: str = "") -> None:
        """Show how far the work is, with a remark; it may have gone back."""
        self._done = done
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
        elif not self._quiet and self._is_time():
            self._said = time.monotonic()
            counted = f"{self._label}: {done:,}/{self._total:,} {self._unit}".rstrip()
            say("  ".join(part for part in (counted, note, self._left()) if part))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            self._bar.stop()

    def _is_time(self) -> bool:
        return time.monotonic() - self._said > _LINE_EVERY_S or self._done == self._total

    def _left(self) -> str:
        done = self._done - self._start
        if done <= 0 or self._done >= self._total:
            return ""
        return f"{self.seconds / done * (self._total - self._done):,.0f} s left"


def _bar(unit: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn(f"{unit} {{task.fields[note]}}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(file=sys.stdout),
    )


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
    with Line(label, total, start=start, unit=unit) as line:
        for item in items:
            yield item
            line.advance(1)


class Meter:
    """Progress of encoding: d-pixels and tokens, their rates, and the time that is left.

    Args:
        label: What is being done.
        total: D-pixels of the whole work; what is skipped counts towards it.
    """

    def __init__(self, label: str, total: int) -> None:
        self._line = Line(label, total, unit="d-pixels")
        self.dpixels = self.tokens = 0

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return self._line.seconds

    @property
    def rates(self) -> str:
        """D-pixels and tokens a second since the start."""
        return f"{self.dpixels / self.seconds:,.0f} px/s {self.tokens / self.seconds:,.0f} tokens/s"

    def skip(self, dpixels: int) -> None:
        """Count d-pixels that need no work."""
        self._line.skip(dpixels)

    def skip_to(self, done: int) -> None:
        """Count d-pixels up to this place in the whole work, whatever became of them."""
        self._line.skip_to(done)

    def advance(self, dpixels: int, tokens: int) -> None:
        """Count d-pixels that were encoded, and their observations."""
        self.dpixels, self.tokens = self.dpixels + dpixels, self.tokens + tokens
        self._line.advance(dpixels, self.rates)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._line.close()


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
