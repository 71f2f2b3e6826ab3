"""One date of Sentinel-2: scenes to one layer of digital numbers and one of validity.

The one idea: the first *valid* observation of a pixel wins, in the order of ids. Where a pixel has
none, the first scene with data fills the values and validity stays 0; nothing is drawn by chance.
The offset is taken off each item by itself, before it meets another.

A scene without its classes, or with classes that cannot be read, is not used and is named. It is
never taken for clear.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import S2_BANDS
from tasks.stac.captures import Array, Receipt, Target, describe_item, readable
from tasks.stac.days import Day
from tasks.stac.items import Scene
from tasks.stac.offset import (
    DARK_CLASSES,
    darkness,
    held_against,
    said_by_metadata,
    without_offset,
)
from tasks.stac.providers import CLASSES, OpticalForm, Provider
from tasks.stac.reading import Access, Layer, read_layers

Layers = dict[str, Array]
BANDS, VALID = "bands", "masks"
"""Names of the two layers of a date."""


@dataclass(frozen=True, slots=True)
class OpticalCapture:
    """One scene on the wanted pixels, the offset off."""

    bands: list[npt.NDArray[np.uint16]]
    """(n,) of each band of ``S2_BANDS``."""
    has_data: npt.NDArray[np.bool_]
    """(n,): every band has a digital number."""
    is_valid: npt.NDArray[np.bool_]
    """(n,): it has, and its class is a valid one."""
    account: dict[str, Any]
    """For the receipt."""
    warning: str


def read_optical_day(
    day: Day, provider: Provider, target: Target, access: Access
) -> tuple[Layers, Receipt]:
    """Read a date.

    Args:
        day: Its scenes.
        provider: How they are stored.
        target: The pixels that are wanted.
        access: How rasters are reached.

    Returns:
        ``bands`` uint16 (n, 10) and ``masks`` uint8 (n,), 1 being a clear observation; and how the
        date came about.
    """
    receipt, mosaic = Receipt(day.day.isoformat()), Mosaic(target.size)
    for copies in day.captures:
        for capture in readable(
            copies, lambda scene: read_scene(scene, provider, target, access), receipt
        ):
            mosaic.lay_under(capture)
            receipt.items.append(capture.account)
            if capture.warning:
                receipt.warnings.append(capture.warning)
        if mosaic.valid.all():
            break
    receipt.has_data = bool(mosaic.seen.any())
    receipt.clear_px = int(np.count_nonzero(mosaic.valid[target.region]))
    return {BANDS: mosaic.bands, VALID: mosaic.valid.view(np.uint8)}, receipt


class Mosaic:
    """Scenes of a date, laid one under the other.

    Args:
        num_pixels: Number of pixels n.
    """

    def __init__(self, num_pixels: int) -> None:
        self.bands = np.zeros((num_pixels, len(S2_BANDS)), np.uint16)
        self.valid = np.zeros(num_pixels, bool)
        self.seen = np.zeros(num_pixels, bool)
        self._is_empty = True

    def lay_under(self, capture: OpticalCapture) -> None:
        """Let a scene have the pixels that the scenes before it leave to it."""
        if self._is_empty:
            self.bands = np.stack(capture.bands, axis=-1)
        else:
            free = ~self.valid & (capture.is_valid | (~self.seen & capture.has_data))
            for index, band in enumerate(capture.bands):
                self.bands[free, index] = band[free]
        self._is_empty = False
        self.valid |= capture.is_valid
        self.seen |= capture.has_data


def read_scene(scene: Scene, provider: Provider, target: Target, access: Access) -> OpticalCapture:
    """Read one scene and take the offset off if it is there.

    Raises:
        DataError: An asset is missing or cannot be read.
    """
    form = provider.optical_form(scene)
    layers = _layers(scene, form)
    pixels = read_layers(layers, target.window, access)
    has_data = reduce(np.minimum, (pixels[band] for band in S2_BANDS)) > 0
    dark = _lookup(DARK_CLASSES)[pixels[CLASSES]] & has_data
    decision = held_against(said_by_metadata(scene, form), darkness(pixels, dark))
    account = describe_item(scene, layers, pixels) | {"offset": decision.to_json()}
    bands = [target.take(pixels[band]) for band in S2_BANDS]
    invalid = _lookup(form.invalid_classes)[target.take(pixels[CLASSES])]
    wanted = target.take(has_data)
    said = "with" if decision.is_present else "without"
    return OpticalCapture(
        [without_offset(band) for band in bands] if decision.is_present else bands,
        wanted,
        wanted & ~invalid,
        account,
        f"{scene.id}: pixels {said} the offset of 1000 (darkest {decision.dark_level:.0f}), "
        f"against its metadata; the pixels were followed"
        if decision.contradicts
        else "",
    )


def _layers(scene: Scene, form: OpticalForm) -> dict[str, Layer]:
    """Return what is to be read; the classes first, without which the rest is not used."""
    classes = Layer(scene.href(form.keys[CLASSES]), "uint8", 0, is_classes=True)
    bands = {band: Layer(scene.href(form.keys[band]), "uint16", form.nodata) for band in S2_BANDS}
    return {CLASSES: classes, **bands}


def _lookup(classes: Any) -> npt.NDArray[np.bool_]:
    table = np.zeros(256, bool)
    table[list(classes)] = True
    return table
