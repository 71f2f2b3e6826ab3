"""What a run of ingest is going to do, or has done, cell by cell."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tasks.stac.days import OPTICAL
from tasks.stac.jobs import Job
from tasks.stac.providers import ORBITS

_HEAD = f"{'tile':<24} {'pixels':>11} {'S2':>4} {'clear':>6} {'asc':>4} {'desc':>4} {'unread':>6}  "


@dataclass(slots=True)
class Row:
    """One cell and year."""

    name: str
    pixels: list[int]
    """Height and width, or the number of points."""
    optical: int
    """Dates of Sentinel-2."""
    clear: float | None
    """Share of observations of the cell's pixels that are clear; ``None`` without dates."""
    ascending: int
    descending: int
    unread: int
    """Scenes that could not be read."""
    outcome: str
    """``planned``, ``made``, ``kept`` from an earlier run, ``replaced``: made where one was, or
    ``no data``."""


@dataclass(slots=True)
class Report:
    """A whole run."""

    out: str
    rows: list[Row] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    """Point tables that were written."""
    unread: dict[str, str] = field(default_factory=dict)
    """Scene, cell and date, and why it could not be read."""
    notes: list[str] = field(default_factory=list)
    """What a person should know: offsets against metadata, scenes left out."""
    num_scenes: int = 0
    size_bytes: int = 0
    """Bytes of the arrays, at most."""
    _offsets: dict[str, bool] = field(default_factory=dict)
    """Items of Sentinel-2, and whether the offset was in their pixels."""

    def plan(self, job: Job) -> None:
        """Note what a job will do."""
        self._count(job)
        counts = [len(job.plan.days[stream]) for stream in (OPTICAL, *ORBITS)]
        outcome = "planned" if any(counts) else "no data"
        self.rows.append(
            Row(job.name, list(job.shape), counts[0], None, counts[1], counts[2], 0, outcome)
        )

    def add(self, job: Job, record: dict[str, Any], outcome: str) -> None:
        """Note what became of a job, by its record."""
        self._count(job)
        outcome = outcome if any(record["dates"].values()) else "no data"
        dates = {stream: record["dates"].get(stream, []) for stream in (OPTICAL, *ORBITS)}
        seen = record["region_px"] * len(dates[OPTICAL])
        clear = sum(date["clear_px"] for date in dates[OPTICAL])
        for entry in record["unread"]:
            where = f"{job.name} {entry['stream']} {entry['date']} {entry['id']}"
            self.unread[where] = entry["reason"]
        self.notes += [f"{job.name}: {line}" for line in record["warnings"]]
        self._compare_offsets(job, dates[OPTICAL])
        self.rows.append(
            Row(
                job.name,
                list(job.shape),
                len(dates[OPTICAL]),
                clear / seen if seen else None,
                len(dates["ascending"]),
                len(dates["descending"]),
                len(record["unread"]),
                outcome,
            )
        )

    def _count(self, job: Job) -> None:
        self.num_scenes += job.plan.num_scenes
        self.size_bytes += job.size_bytes
        self.notes += [f"{name} left out: {why}" for name, why in job.plan.left_out.items()]
        if not job.target.region.any():
            self.notes.append(f"{job.name}: no pixel has its centre in the area")

    def _compare_offsets(self, job: Job, dates: list[dict[str, Any]]) -> None:
        """Note items whose offset was judged otherwise in another cell: a seam would show."""
        for item in (item for date in dates for item in date["items"]):
            is_present = item["offset"]["is_present"]
            if self._offsets.setdefault(item["id"], is_present) != is_present:
                said = "with" if is_present else "without"
                self.notes.append(
                    f"{job.name}: {item['id']} was taken as {said} the offset, unlike in another cell"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the summary for a machine."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}

    def render(self) -> str:
        """Return the summary as text."""
        lines = [_HEAD.rstrip(), *(_line(row) for row in self.rows)]
        lines += [f"note: {line}" for line in dict.fromkeys(self.notes)]
        lines += [f"UNREAD {where}: {reason}" for where, reason in self.unread.items()]
        lines += [f"table {path}" for path in self.tables]
        if any(row.outcome == "planned" for row in self.rows):
            size = f"{self.size_bytes / 1e6:,.1f} MB"
            lines.append(f"{self.num_scenes:,} scenes, at most {size} in {self.out}")
        elif self.unread:
            lines.append("Some scenes could not be read. The same command tries those again.")
        return "\n".join(lines)


def _line(row: Row) -> str:
    pixels = " x ".join(map(str, row.pixels))
    clear = "-" if row.clear is None else f"{row.clear:.0%}"
    return (
        f"{row.name:<24} {pixels:>11} {row.optical:>4} {clear:>6} {row.ascending:>4} "
        f"{row.descending:>4} {row.unread:>6}  {row.outcome}"
    )
