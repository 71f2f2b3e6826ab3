"""What ``tessera verify`` has found, for a person and for a program."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.storing.objects import Wanted
from tasks.storing.store import Digests

_SHOWN_FILES = 3
_SHOWN_FAULTS = 25


@dataclass(slots=True)
class Fault:
    """An object or a file that is not what it must be."""

    kind: str
    """``missing``, ``corrupted``, ``forged`` (right MD5, wrong SHA-256), ``unreadable``, ``extra``."""
    wanted: Wanted
    """What it must be."""
    store: str
    """Address of the store that it is in."""
    found: Digests | None = None
    """What it is, where it could be read."""
    reason: str = ""
    """Why it could not be read."""
    good_here: bool | None = None
    """Whether this machine's cache has the right bytes; None where that does not matter."""
    quarantined: list[str] = field(default_factory=list)
    """Where it and the listings that name it were moved."""

    def to_json(self) -> dict[str, Any]:
        """Return the fault in plain JSON types."""
        expected = {"md5": self.wanted.md5, "size": self.wanted.size}
        found = self.found
        return {
            "kind": self.kind,
            "files": list(self.wanted.files),
            "store": self.store,
            "key": self.wanted.key,
            "expected": expected | {"sha256": sorted(self.wanted.sha256)},
            "found": {"md5": found.md5, "size": found.size, "sha256": found.sha256}
            if found
            else None,
            "reason": self.reason,
            "good_here": self.good_here,
            "quarantined": self.quarantined,
        }

    def render(self) -> list[str]:
        """Return the fault as lines of text."""
        files = self.wanted.files
        files = tuple(f"{name} (listing)" if name.endswith("/") else name for name in files)
        more = f" and {len(files) - _SHOWN_FILES} more" if len(files) > _SHOWN_FILES else ""
        lines = [f"x {self.kind:<10} {', '.join(files[:_SHOWN_FILES])}{more}"]
        lines += [_line("at", f"{self.store}/{self.wanted.key}")]
        if self.kind != "extra":
            wanted = self.wanted
            digests = [("md5", wanted.md5), *(("sha256", d) for d in sorted(wanted.sha256))]
            lines += [_line("expected", _words(wanted.size, digests))]
        if found := self.found:
            digests = [("md5", found.md5), ("sha256", found.sha256)]
            lines += [_line("found", _words(found.size, digests))]
        lines += [_line("found", self.reason)] if self.reason else []
        return lines + [_line("moved to", key) for key in self.quarantined]


@dataclass(slots=True)
class Report:
    """What was verified and what is wrong."""

    where: str
    """Remote or checkout, as a person calls it."""
    objects: int
    """Objects and files that were looked up."""
    read: int
    """Those of which every byte was read."""
    bytes: int
    """Bytes that were read."""
    faults: Sequence[Fault]
    """What is wrong."""
    notes: Sequence[str] = ()
    """What was not looked at, and why."""
    mend: str = ""
    """What to do; empty when nothing is wrong."""

    def to_json(self) -> dict[str, Any]:
        """Return the report in plain JSON types."""
        return {
            "where": self.where,
            "whole": not self.faults,
            "objects": self.objects,
            "read": self.read,
            "bytes": self.bytes,
            "faults": [fault.to_json() for fault in self.faults],
            "notes": list(self.notes),
            "mend": self.mend,
        }

    def render(self) -> str:
        """Return the report as text: faults, what was left out, the sum, the mend."""
        lines = [line for fault in self.faults[:_SHOWN_FAULTS] for line in fault.render()]
        if len(self.faults) > _SHOWN_FAULTS:
            more = len(self.faults) - _SHOWN_FAULTS
            lines += [f"x and {more} more; --json names them all"]
        lines += [f"! {note}" for note in self.notes]
        kinds = Counter(fault.kind for fault in self.faults)
        sums = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        amount = f"{self.objects} objects, {self.read} read ({self.bytes / 1e6:,.1f} MB)"
        lines += [f"{self.where}: {amount}: {sums or 'nothing wrong'}"]
        return "\n".join([*lines, *([f"-> {self.mend}"] if self.mend else [])])


def _line(label: str, text: str) -> str:
    return f"    {label:<9} {text}"


def _words(size: int | None, digests: Sequence[tuple[str, str | None]]) -> str:
    words = [f"{name} {digest}" for name, digest in digests if digest]
    return ", ".join([*words, *([f"{size:,} bytes"] if size is not None else [])])
