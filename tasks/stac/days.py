"""Which scenes make a date: grouped by sensor, orbit direction and UTC day, in a fixed order.

The one idea: everything that decides which pixel wins is settled here, before any is read, from ids,
processing baselines and orbits alone. So the outcome does not depend on the order of answers, on
threads, or on which run read what.

A scene may exist several times, processed again. Copies are the same square of the same pass; the
highest baseline comes first, and the others stand by in case it cannot be read.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from models.bands import S1_BANDS
from tasks.stac.items import Scene
from tasks.stac.providers import ORBITS, REFUSED, Provider

OPTICAL = "s2"
STREAMS = (OPTICAL, *ORBITS)
"""What is never mixed: the optical sensor, and the orbit directions of the radar."""

Copies = tuple[Scene, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """One date of one stream."""

    stream: str
    """One of ``STREAMS``."""
    day: date
    captures: tuple[Copies, ...]
    """By id: the first to see a pixel wins it. Of each the copies, the best first."""

    @property
    def digests(self) -> list[str]:
        """Digests of all items, in order."""
        return [scene.digest for copies in self.captures for scene in copies]


@dataclass(frozen=True, slots=True)
class Plan:
    """The dates of one cell and year."""

    days: Mapping[str, list[Day]]
    """By stream, in the order of time."""
    left_out: Mapping[str, str]
    """Scenes that no date uses, and why."""

    @property
    def size(self) -> int:
        """Number of dates, those of each stream counted for themselves."""
        return sum(len(days) for days in self.days.values())

    @property
    def num_scenes(self) -> int:
        """Number of scenes, copies included."""
        return sum(len(day.digests) for days in self.days.values() for day in days)


def plan_days(scenes: Iterable[Scene], provider: Provider) -> Plan:
    """Group scenes into dates.

    A radar scene without VV and VH, or without a known orbit direction, is left out with the reason.
    An optical scene without its classes stays: that it cannot be used must be seen.
    """
    found: dict[tuple[str, date], list[Scene]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for scene in scenes:
        stream, reason = _stream_of(scene, provider)
        if reason:
            left_out[scene.id] = reason
        else:
            found[stream, scene.day].append(scene)
    days: dict[str, list[Day]] = {stream: [] for stream in STREAMS}
    for (stream, day), members in sorted(found.items(), key=lambda pair: pair[0]):
        copies = _copies(members) if stream == OPTICAL else [(scene,) for scene in members]
        captures = sorted(copies, key=lambda group: (group[0].id, group[0].collection))
        days[stream].append(Day(stream, day, tuple(captures)))
    return Plan(days, left_out)


def _stream_of(scene: Scene, provider: Provider) -> tuple[str, str]:
    """Return the stream that a scene belongs to, or else why it belongs to none."""
    if provider.is_optical(scene):
        return OPTICAL, ""
    if not provider.is_radar(scene):
        return (
            "",
            f"collection {scene.collection}: {REFUSED.get(scene.collection, 'unknown')}",
        )
    form = provider.radar_form(scene)
    absent = [band for band in S1_BANDS if form.keys[band] not in scene.hrefs]
    orbit = str(scene.properties.get(form.orbit_property, "")).lower()
    if absent:
        return "", f"no {' '.join(absent)}"
    return (orbit, "") if orbit in ORBITS else ("", f"{form.orbit_property} is {orbit or 'absent'}")


def _copies(scenes: Iterable[Scene]) -> list[Copies]:
    """Put copies together, the highest baseline first; scenes of no known square have none."""
    groups: dict[tuple[str, str], list[Scene]] = defaultdict(list)
    for scene in scenes:
        groups[scene.square or scene.id, scene.datatake].append(scene)
    best_first = lambda scene: (-(scene.baseline or 0), scene.id)  # noqa: E731 (used once, here)
    return [tuple(sorted(group, key=best_first)) for group in groups.values()]
