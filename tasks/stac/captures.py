"""Read what a date needs of its scenes, with their copies, and keep account of it.

The one idea: a date's receipt says all that is to be known of how it came about: the items that were
used, by digest, address and the digest of their pixels, and the scenes that could not be read, with
the reason: also where another copy took their place, since a rerun may read the better one. It holds
no clock and no signature, so it is the same whoever makes it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from tasks.errors import TesseraError
from tasks.stac.days import Copies
from tasks.stac.items import Scene, without_query
from tasks.stac.reading import Layer

Array = npt.NDArray[Any]
Capture = TypeVar("Capture")


@dataclass(frozen=True, slots=True)
class Target:
    """The pixels that are wanted."""

    window: GeoBox
    region: npt.NDArray[np.bool_]
    """(n,) of the wanted pixels, those that belong to the cell."""
    rows: npt.NDArray[np.int64] | None = None
    """Flat indices of the wanted pixels in the window; ``None``: all, row by row."""

    @property
    def size(self) -> int:
        """Number of wanted pixels."""
        return len(self.region)

    def take(self, values: Array) -> Array:
        """Return the wanted pixels of (H, W) values, as (n,)."""
        flat = values.reshape(-1)
        return flat if self.rows is None else flat[self.rows]


@dataclass(slots=True)
class Receipt:
    """How a date came about."""

    day: str
    has_data: bool = False
    """Whether any wanted pixel was seen."""
    clear_px: int = 0
    """Pixels of the region with a valid observation."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """What was used, in order."""
    unread: dict[str, str] = field(default_factory=dict)
    """Scenes that could not be read, and why."""
    warnings: list[str] = field(default_factory=list)


def readable(
    copies: Copies, read: Callable[[Scene], Capture], receipt: Receipt
) -> Iterator[Capture]:
    """Yield what can be read of the best copy, noting in the receipt what cannot.

    Copies of one baseline are all yielded: an archive may cut one granule into two.
    """
    best: float | None = None
    for scene in copies:
        if best is not None and (scene.baseline or 0) < best:
            return
        try:
            capture = read(scene)
        except TesseraError as error:
            receipt.unread[scene.id] = str(error)
            continue
        best = scene.baseline or 0
        yield capture


def describe_item(
    scene: Scene, layers: Mapping[str, Layer], pixels: Mapping[str, Array]
) -> dict[str, Any]:
    """Return what a receipt says of an item whose pixels were read."""
    digest = sha256()
    for name in layers:
        digest.update(np.ascontiguousarray(pixels[name]).data)
    return {
        "id": scene.id,
        "collection": scene.collection,
        "datetime": scene.when.isoformat(),
        "item_sha256": scene.digest,
        "hrefs": {name: without_query(layer.href) for name, layer in layers.items()},
        "pixels_sha256": digest.hexdigest(),
    }
