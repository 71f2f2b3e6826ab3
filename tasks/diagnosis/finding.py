"""What a check of ``tessera doctor`` says: a name, a state, what was found, how to mend it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warn", "fail", "mended"]
"""``warn`` costs time or space, ``fail`` stands in the way of work; ``mended`` was one of them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one check."""

    name: str
    state: State
    found: str
    mend: str = ""
    """What the user can do; empty when nothing is wrong."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding in plain JSON types."""
        return asdict(self)
