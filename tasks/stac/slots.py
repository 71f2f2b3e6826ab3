"""Arrays of all dates of a stream, each date written into its place as soon as it is read.

The one idea: the pixels are written once. An array for all planned dates is made at the start, which
costs no space until it is filled; a date's slot is filled and flushed, and then its receipt is
written. A receipt without a slot cannot be, so after a crash the dates with a receipt are whole and
all others are read again. Threads may fill different slots at once.

It deliberately knows neither sensors nor scenes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.files import link_file, sync_file, write_bytes
from tasks.stac.captures import Receipt

Array = npt.NDArray[Any]
Shapes = Mapping[str, tuple[tuple[int, ...], str]]


class Slots:
    """The unfinished arrays of one stream.

    Args:
        folder: Where they lie; its name tells apart what must not be mixed.
        days: Planned dates, in the order of time.
        shapes: Shape of one date and type, by name of the array.
    """

    def __init__(self, folder: Path, days: Sequence[date], shapes: Shapes) -> None:
        self._folder, self.days, self._shapes = folder, list(days), shapes
        folder.mkdir(parents=True, exist_ok=True)
        if not all(self._path(name).exists() for name in shapes):
            for path in folder.glob("*.json"):
                path.unlink()
            for name in shapes:
                self._create(name)

    def receipt(self, day: date) -> Receipt | None:
        """Return how a date came about, if it is whole."""
        path = self._folder / f"{day}.json"
        return Receipt(**json.loads(path.read_text())) if path.exists() else None

    def seal(self, day: date, arrays: Mapping[str, Array], receipt: Receipt) -> None:
        """Write a date into its place and make it durable; then its receipt."""
        for name, values in arrays.items():
            # Written and not mapped: the pages of a mapped file cost three times as much to fill.
            with self._path(name).open("r+b") as file:
                file.seek(-values.nbytes * (len(self.days) - self.days.index(day)), os.SEEK_END)
                file.write(np.ascontiguousarray(values).data)
                file.flush()
                os.fdatasync(file.fileno())
        write_bytes(self._folder / f"{day}.json", json.dumps(_plain(receipt)).encode())

    def receipts(self) -> list[Receipt]:
        """Return the receipts of all dates, which must all be whole."""
        found = [self.receipt(day) for day in self.days]
        return [receipt for receipt in found if receipt is not None]

    def kept(self) -> list[date]:
        """Return the dates on which something was seen."""
        pairs = zip(self.days, self.receipts(), strict=True)
        return [day for day, receipt in pairs if receipt.has_data]

    def place(self, name: str, out: Path) -> None:
        """Put an array in its final place, without the dates on which nothing was seen.

        It is linked if nothing is to be left out and nothing will be written any more, else copied.
        """
        kept = self.kept()
        is_final = len(kept) == len(self.days) and not any(r.unread for r in self.receipts())
        if is_final:
            link_file(self._path(name), out)
            return
        (shape, dtype), whole = self._shapes[name], self._open(name)
        copy = np.lib.format.open_memmap(out, "w+", dtype, (len(kept), *shape))
        for index, day in enumerate(kept):
            copy[index] = whole[self.days.index(day)]
        sync_file(out)

    def read(self, name: str) -> Array:
        """Return an array of the dates on which something was seen."""
        chosen = [self.days.index(day) for day in self.kept()]
        return np.asarray(self._open(name)[chosen])

    def _open(self, name: str) -> Array:
        return np.asarray(np.load(self._path(name), mmap_mode="r", allow_pickle=False))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _create(self, name: str) -> None:
        shape, dtype = self._shapes[name]
        aside = self._path(name).with_suffix(".part")
        np.lib.format.open_memmap(aside, "w+", dtype, (len(self.days), *shape)).flush()
        aside.replace(self._path(name))


def _plain(receipt: Receipt) -> dict[str, Any]:
    return {field.name: getattr(receipt, field.name) for field in fields(receipt)}
