"""Decide whether the pixels of a Sentinel-2 scene still hold the offset of 1000, and take it off.

From processing baseline 04.00 on, 1000 is added to every digital number. Some archives have taken it
off again, some have not, one holds both kinds, and what items say of it is wrong in both
directions. A wrong guess shifts a whole date by a tenth of reflectance and nothing else shows it.

The one idea: what the metadata say is held against the pixels. Plants and water are dark somewhere,
so with the offset their darkest visible band is at 1000 or just above, without it far below. Pixels
that are conclusive win. The evidence is kept with the decision.

Decision: the two ways are not alike. Below 900 there can be no offset. At 1000 and above there may
be haze, snow or a missed cloud instead, as every real year has; so against metadata that know of
no offset, every band must be at 1000 or above, the visible ones not far above, in many pixels.

It deliberately decides for one item at a time, before any mosaic: afterwards it could not be told
which pixel came from which.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import S2_BANDS
from tasks.stac.items import Scene, without_query
from tasks.stac.providers import OpticalForm

OFFSET = 1000
"""What is added to every digital number."""

SINCE_BASELINE = 4.0
SINCE_DAY = date(2022, 1, 25)
"""First day of that baseline, for items that do not name theirs; earlier scenes were reprocessed."""

DARK_CLASSES = (4, 6)
"""Vegetation and water."""

VISIBLE = ("B04", "B02", "B03")

MIN_DARK_PX = 200
_MIN_PRESENT_PX = 500  # to find an offset that the metadata do not know of
_MAX_DARK_PX = 20_000  # more are sampled evenly: a percentile needs no more
_PERCENTILE = 1
_PRESENT_FROM, _ABSENT_BELOW = 1000, 900
_HAZE_FROM = 1500  # brighter plants and water are seen through something

_REMOVED_PLACE, _KEPT_PLACE = "sentinel-cogs", "sentinel-s2-l2a"
"""Buckets of Earth Search: its own rasters, and ESA's, which some items of ``sentinel-2-l2a`` name."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the offset is in the pixels, and why."""

    is_present: bool
    decided_by: str
    """The evidence that was followed: ``baseline``, ``bucket``, ``flag``, ``declared``, ``profile``,
    ``date`` or ``pixels``."""
    baseline: float | None
    evidence: dict[str, bool]
    """What each kind of metadata says; those that are silent are left out."""
    dark_level: float | None = None
    """1st percentile of the darkest visible band over plants and water; ``None``: too few pixels."""

    @property
    def contradicts(self) -> bool:
        """Whether the pixels overruled the metadata."""
        return self.decided_by == "pixels"

    def to_json(self) -> dict[str, Any]:
        """Return the decision for a record."""
        return asdict(self)


def said_by_metadata(scene: Scene, form: OpticalForm) -> Decision:
    """Decide by the metadata alone: the first kind of evidence that is not silent.

    In this order: a baseline below 04.00; the bucket of the rasters; the flag
    ``earthsearch:boa_offset_applied``; the offset of ``raster:bands``; what is known of the
    provider. Only where the baseline is not given does the day of acquisition stand for it.
    """
    baseline = scene.baseline
    if baseline is not None and baseline < SINCE_BASELINE:
        return Decision(False, "baseline", baseline, {"baseline": False})
    if baseline is None and scene.day < SINCE_DAY:
        return Decision(False, "date", None, {"date": False})
    said = {
        "bucket": _bucket(scene, form),
        "flag": _flag(scene),
        "declared": _declared(scene, form),
        "profile": form.keeps_offset,
    }
    evidence = {kind: answer for kind, answer in said.items() if answer is not None}
    decided_by = next(iter(evidence))
    return Decision(evidence[decided_by], decided_by, baseline, evidence)


@dataclass(frozen=True, slots=True)
class Darkness:
    """How dark plants and water get, as 1st percentiles of digital numbers as read."""

    visible: float
    """Of the darkest visible band."""
    lowest: float
    """Of the darkest band of all; where ``visible`` is below 1000, that."""
    num_pixels: int
    """Pixels of plants and water that were looked at."""


def held_against(decision: Decision, dark: Darkness | None) -> Decision:
    """Return the decision after a look at the pixels.

    Args:
        decision: What the metadata say.
        dark: Of ``darkness``.

    A baseline below 04.00 is never overruled: such scenes cannot have the offset.
    """
    present = decision.is_present
    if dark is not None and decision.decided_by != "baseline":
        present = dark.visible >= _ABSENT_BELOW if present else _is_found(dark)
    return Decision(
        present,
        decision.decided_by if present == decision.is_present else "pixels",
        decision.baseline,
        decision.evidence,
        None if dark is None else dark.visible,
    )


def darkness(
    bands: Mapping[str, npt.NDArray[np.uint16]], dark: npt.NDArray[np.bool_]
) -> Darkness | None:
    """Return how dark plants and water get.

    Args:
        bands: (H, W) digital numbers as read, by band.
        dark: (H, W), where the classes say vegetation or water and all bands have data.

    Returns:
        The levels; ``None`` where there are too few pixels.
    """
    places = np.flatnonzero(dark)
    num_pixels = len(places)
    if num_pixels < MIN_DARK_PX:
        return None
    places = places[:: -(-num_pixels // _MAX_DARK_PX)]

    def level(names: Iterable[str]) -> float:
        numbers = (bands[name].reshape(-1)[places] for name in names)
        return min(float(np.percentile(band, _PERCENTILE)) for band in numbers)

    visible = level(VISIBLE)
    # The other bands matter only where the visible ones look as if the offset were there.
    lowest = level(S2_BANDS) if visible >= _PRESENT_FROM else visible
    return Darkness(visible, lowest, num_pixels)


def _is_found(dark: Darkness) -> bool:
    """Tell whether the pixels show an offset that the metadata do not know of."""
    is_dark = dark.visible <= _HAZE_FROM
    return is_dark and dark.lowest >= _PRESENT_FROM and dark.num_pixels >= _MIN_PRESENT_PX


def without_offset(numbers: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Take 1000 off every digital number that is one, leaving at least 1.

    Decision: the released code leaves numbers below 1000 alone, so that its darkest pixels are
    brighter than the less dark ones; here they become 1. 0 means "no data" and stays 0.
    """
    lowered: npt.NDArray[np.uint16] = np.maximum(numbers, OFFSET + 1) - np.uint16(OFFSET)
    lowered[numbers == 0] = 0
    return lowered


def _bucket(scene: Scene, form: OpticalForm) -> bool | None:
    parts = set(re.split(r"[/.]", without_query(scene.hrefs.get(form.keys["B04"], ""))))
    if form.keeps_offset or not parts & {_REMOVED_PLACE, _KEPT_PLACE}:
        return None
    return _KEPT_PLACE in parts


def _flag(scene: Scene) -> bool | None:
    names = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
    given = next((scene.properties[name] for name in names if name in scene.properties), None)
    return None if not isinstance(given, bool) else not given


def _declared(scene: Scene, form: OpticalForm) -> bool | None:
    given = scene.offsets.get(form.keys["B04"])
    return None if given is None else given != 0
