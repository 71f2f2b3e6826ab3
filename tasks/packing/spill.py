"""Runs: what the first pass leaves on the disk, and where the second finds its rows in it.

The one idea: a run is one file of d-pixels ordered by their key, column after column, so every range
of keys is one contiguous piece of each column and is found by bisection. A run is there when its
record ``run-00000.json`` is; the record also says where in the archive the next run begins.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series
from tasks.errors import DataError
from tasks.files import release_pages, sync_file, write_json

_SENSORS = (
    ("s2", len(S2_BANDS), np.dtype(np.uint16)),
    ("s1_asc", len(S1_BANDS), np.dtype(np.int16)),
    ("s1_desc", len(S1_BANDS), np.dtype(np.int16)),
)
_DAY = np.dtype(np.int16)
_WORD = 8  # bytes of a key, an identifier or an offset

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    path: Path
    """File of the columns."""
    rows: int
    """D-pixels in it."""
    observations: dict[str, int]
    """Observations in it by sensor."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.sections()["end"]

    def sections(self) -> dict[str, int]:
        """Return where each column begins."""
        places, at = {}, 0
        for name, length in self._lengths().items():
            places[name] = at
            at += length
        return places | {"end": at}

    def _lengths(self) -> dict[str, int]:
        lengths = {"key": self.rows * _WORD, "pixel_id": self.rows * _WORD}
        for name, width, dtype in _SENSORS:
            count = self.observations[name]
            lengths[f"{name}_offsets"] = (self.rows + 1) * _WORD
            lengths[f"{name}_values"] = count * width * dtype.itemsize
            lengths[f"{name}_doy"] = count * _DAY.itemsize
        return lengths

    def _keys(self) -> Keys:
        mapped: Keys = np.memmap(self.path, np.uint64, "r", offset=0, shape=(self.rows,))
        return mapped

    def find(self, low: int, high: int) -> tuple[int, int]:
        """Return the rows whose keys lie in low..high - 1, as first and last + 1."""
        mapped = self._keys()
        first, last = (
            self.rows if key >> 64 else int(np.searchsorted(mapped, np.uint64(key)))
            for key in (low, high)
        )
        release_pages(mapped)
        return first, last


def write_run(path: Path, keys: Keys, dpixels: DPixels, record: dict[str, Any]) -> None:
    """Write a run and then its record.

    Args:
        path: File of the run; the record is beside it.
        keys: Keys of the d-pixels, rising.
        dpixels: D-pixels in the same order.
        record: What else the first pass must know to go on behind this run.
    """
    aside = path.with_name(f".{path.name}.part")
    with aside.open("wb") as sink:
        for column in _columns(keys, dpixels):
            sink.write(_as_bytes(column))
    sync_file(aside)
    aside.replace(path)
    observations = {name: len(getattr(dpixels, name).doy) for name, _, _ in _SENSORS}
    write_json(
        path.with_suffix(".json"),
        record | {"rows": len(dpixels), "observations": observations},
    )


def _columns(keys: Keys, dpixels: DPixels) -> Iterator[npt.NDArray[Any]]:
    """Yield the columns of a run in the order of its sections."""
    yield from (keys, dpixels.pixel_id)
    for name, _, dtype in _SENSORS:
        series: Series = getattr(dpixels, name)
        yield series.offsets
        yield np.ascontiguousarray(series.values, dtype)
        yield np.ascontiguousarray(series.doy, _DAY)


def _as_bytes(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read the records of the finished runs, in their order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("run-*.json"))]


def open_runs(folder: Path) -> list[Run]:
    """Return the runs that hold any d-pixel, in their order.

    Raises:
        DataError: A run's file is not as long as its record says.
    """
    runs = []
    for path in sorted(folder.glob("run-*.json")):
        record = json.loads(path.read_text())
        run = Run(path.with_suffix(".bin"), record["rows"], record["observations"])
        size = run.path.stat().st_size if run.path.exists() else None
        if size != run.size:
            raise DataError(
                f"a run of {run.size} bytes",
                found="no such file" if size is None else f"{size} bytes",
                where=str(run.path),
                mend=f"Remove the folder {folder.parent} and run again: dvc repro pack",
            )
        runs += [run] if run.rows else []
    return runs


def remove_runs(folder: Path) -> None:
    """Remove the files of the runs; their records, which say what was counted, stay."""
    for path in folder.glob("*.bin"):
        path.unlink()


def read_range(runs: Sequence[Run], low: int, high: int) -> tuple[Keys, DPixels]:
    """Read the d-pixels of all runs whose key is in low..high - 1, run after run.

    Each column is read straight into its place: no part of it is held twice.
    """
    chosen = _choose(runs, low, high)
    keys, ids = (_read_rows(chosen, name) for name in ("key", "pixel_id"))
    sensors = [_read_series(chosen, name, width, dtype) for name, width, dtype in _SENSORS]
    return keys, DPixels(ids, *sensors)


def read_keys(runs: Sequence[Run], low: int, high: int) -> Keys:
    """Read the keys in low..high - 1 of all runs, run after run."""
    return _read_rows(_choose(runs, low, high), "key")


_Chosen = list[tuple[Run, int, int]]
"""Runs, and the first and the last row (not included) that are meant."""


def _choose(runs: Sequence[Run], low: int, high: int) -> _Chosen:
    places = ((run, *run.find(low, high)) for run in runs)
    return [(run, first, last) for run, first, last in places if last > first]


def _read_rows(chosen: _Chosen, name: str) -> Keys:
    column, at = np.empty(sum(last - first for _, first, last in chosen), np.uint64), 0
    for run, first, last in chosen:
        with run.path.open("rb") as stream:
            _fill(stream, run.sections()[name] + first * _WORD, column[at : at + last - first])
        at += last - first
    return column


def _read_series(chosen: _Chosen, name: str, width: int, dtype: np.dtype[Any]) -> Series:
    parts = [_read_offsets(run, name, first, last) for run, first, last in chosen]
    sizes = [int(part[-1] - part[0]) for part in parts]
    values, doy = np.empty((sum(sizes), width), dtype), np.empty(sum(sizes), _DAY)
    offsets, at = [np.zeros(1, np.int64)], 0
    for (run, _, _), part, size in zip(chosen, parts, sizes, strict=True):
        sections = run.sections()
        with run.path.open("rb") as stream:
            row = width * dtype.itemsize
            _fill(stream, sections[f"{name}_values"] + int(part[0]) * row, values[at : at + size])
            start = sections[f"{name}_doy"] + int(part[0]) * _DAY.itemsize
            _fill(stream, start, doy[at : at + size])
        offsets.append(part[1:] - part[0] + at)
        at += size
    return Series(values, doy, np.concatenate(offsets))


def _read_offsets(run: Run, name: str, first: int, last: int) -> npt.NDArray[np.int64]:
    offsets = np.empty(last - first + 1, np.int64)
    with run.path.open("rb") as stream:
        _fill(stream, run.sections()[f"{name}_offsets"] + first * _WORD, offsets)
    return offsets


def _fill(stream: BufferedReader, start: int, out: npt.NDArray[Any]) -> None:
    stream.seek(start)
    view = _as_bytes(out)
    if stream.readinto(view) != len(view):
        raise DataError(
            f"{len(view)} bytes from {start} on",
            found="the end of the file",
            where=stream.name,
            mend="Remove the work folder that it lies in and run again: dvc repro pack",
        )
