"""One cell and year: what is to be read, and where it stands until it is finished.

The one idea: a job has a key, the digest of everything that its bytes depend on: the window, the
pixels, the scenes, the scale. What lies under that key may be continued, whatever lies elsewhere is
another request's and is never mixed in.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from models.bands import S1_BANDS, S2_BANDS
from tasks.files import canonical_json
from tasks.stac.captures import Receipt, Target
from tasks.stac.days import OPTICAL, Day, Plan
from tasks.stac.grid import Cell
from tasks.stac.optical import BANDS, VALID, read_optical_day
from tasks.stac.providers import Provider
from tasks.stac.radar import CODES, factor_of, read_radar_day
from tasks.stac.reading import Access
from tasks.stac.slots import Shapes, Slots

_FORM = 1  # of what is read from the same scenes; raised whenever that changes


@dataclass(frozen=True)
class Source:
    """Where scenes come from, and what is made of them."""

    provider: Provider
    catalogue: str
    """Address of the API, or path or address of the static catalogue."""
    collections: tuple[str, ...]
    scale: str
    """Of the radar code, by name."""


@dataclass(frozen=True)
class Job:
    """One cell and year."""

    source: Source
    cell: Cell
    year: int
    target: Target
    shape: tuple[int, ...]
    """Of the wanted pixels: (H, W), or (n,) for points."""
    plan: Plan

    @property
    def name(self) -> str:
        """``<year>/<cell>``."""
        return f"{self.year}/{self.cell.name}"

    @cached_property
    def key(self) -> str:
        """Digest of what the outcome depends on."""
        window, rows = self.target.window, self.target.rows
        content = {
            "form": _FORM,
            "provider": self.source.provider.name,
            "catalogue": self.source.catalogue,
            "scale": self.source.scale,
            "cell": self.cell.name,
            "year": self.year,
            "window": [str(window.crs), *window.transform[:6], *window.shape],
            "region": sha256(self.target.region.tobytes()).hexdigest(),
            "rows": None if rows is None else sha256(rows.tobytes()).hexdigest(),
            "scenes": {
                stream: [[str(day.day), day.digests] for day in days]
                for stream, days in self.plan.days.items()
            },
        }
        return sha256(canonical_json(content).encode()).hexdigest()

    @property
    def streams(self) -> list[str]:
        """Streams with at least one date."""
        return [stream for stream, days in self.plan.days.items() if days]

    @property
    def size_bytes(self) -> int:
        """Bytes of the arrays if every date has data."""
        per_date = {OPTICAL: 2 * len(S2_BANDS) + 1}
        return self.target.size * sum(
            len(days) * per_date.get(stream, 2 * len(S1_BANDS))
            for stream, days in self.plan.days.items()
        )

    def folder(self, out: Path) -> Path:
        """Return where unfinished work of this job lies, and of no other."""
        return out / ".unfinished" / str(self.year) / self.cell.name / self.key[:16]

    def slots(self, out: Path, stream: str) -> Slots:
        """Open the unfinished arrays of a stream."""
        days = [day.day for day in self.plan.days[stream]]
        shapes: Shapes = (
            {BANDS: ((*self.shape, len(S2_BANDS)), "uint16"), VALID: (self.shape, "uint8")}
            if stream == OPTICAL
            else {CODES: ((*self.shape, len(S1_BANDS)), "int16")}
        )
        return Slots(self.folder(out) / stream, days, shapes)


def read_job(job: Job, out: Path, access: Access, workers: int) -> Iterator[Receipt]:
    """Read all dates that are not whole yet, several at once.

    A date with scenes that could not be read is tried again.

    Yields:
        The receipt of each date, those of earlier runs first, the others as they are finished.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        for stream in job.streams:
            slots = job.slots(out, stream)
            for day in job.plan.days[stream]:
                done = slots.receipt(day.day)
                if done is not None and not done.unread:
                    yield done
                else:
                    waiting.append(pool.submit(_read_day, job, day, slots, access))
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read_day(job: Job, day: Day, slots: Slots, access: Access) -> Receipt:
    source = job.source
    if day.stream == OPTICAL:
        arrays, receipt = read_optical_day(day, source.provider, job.target, access)
    else:
        factor = factor_of(source.scale)
        arrays, receipt = read_radar_day(day, source.provider, job.target, access, factor)
    slots.seal(day.day, arrays, receipt)
    return receipt
