"""Shards of d-pixels and of targets as Arrow IPC files.

A shard holds ragged d-pixels, one a row: valid observations only, flattened band by band within an
observation. It is written uncompressed so that a reader maps it and copies nothing. Row i of target
shard s belongs to row i of d-pixel shard s. ``index.json`` lists the shards with their digests and
is written last.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series
from tasks.errors import DataError, DigestMismatch
from tasks.files import sha256_of, sync_file, write_json

INDEX = "index.json"
FORMAT = "tessera-shards/1"
_STREAMS = {
    "s2": (len(S2_BANDS), pa.uint16()),
    "s1_asc": (2, pa.int16()),
    "s1_desc": (2, pa.int16()),
}


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard as the index lists it."""

    name: str
    """File name, relative to the index."""
    rows: int
    """D-pixels in it."""
    sha256: str
    """Digest of the file."""


def write_dpixels(path: Path, dpixels: DPixels) -> None:
    """Write a shard. Equal d-pixels give equal bytes."""
    columns: dict[str, Any] = {"pixel_id": pa.array(dpixels.pixel_id)}
    for name, (num_bands, kind) in _STREAMS.items():
        series: Series = getattr(dpixels, name)
        columns[name] = _lists(series.values.reshape(-1), series.offsets * num_bands, kind)
        columns[f"{name}_doy"] = _lists(series.doy.astype(np.int16), series.offsets, pa.int16())
    metadata = {"s2_bands": " ".join(S2_BANDS), "s1_bands": " ".join(S1_BANDS), "format": FORMAT}
    table = pa.table(columns).replace_schema_metadata(metadata)
    _write(path, table)


def read_dpixels(path: Path) -> DPixels:
    """Map a shard; its arrays are views of the file until rows are taken.

    Raises:
        DataError: Not a d-pixel shard, or one in another band order.
    """
    table = _read(path)
    found = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if found.get("s2_bands") != " ".join(S2_BANDS) or found.get("s1_bands") != " ".join(S1_BANDS):
        raise DataError(
            f"a d-pixel shard with bands {' '.join(S2_BANDS)} | {' '.join(S1_BANDS)}",
            found=f"{found.get('s2_bands')} | {found.get('s1_bands')}",
            where=str(path),
            mend="Pack the archive again: dvc repro pack",
        )
    streams = [_series(table, name, bands) for name, (bands, _) in _STREAMS.items()]
    return DPixels(_values(table, "pixel_id"), *streams)


def write_targets(path: Path, pixel_id: npt.NDArray[np.uint64], targets: npt.NDArray[Any]) -> None:
    """Write a target shard: float16 (rows, d_T), NaN where the teacher has no embedding.

    Decision: half precision. Targets have mean 0 and variance 1 over their coordinates, and only
    their direction enters the loss; half the bytes of a cache of billions of rows is worth 1e-3.
    """
    half = np.ascontiguousarray(targets, dtype=np.float16)
    columns = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), half.shape[1])
    _write(path, pa.table({"pixel_id": pa.array(pixel_id), "target": columns}))


def read_targets(path: Path) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float16]]:
    """Map a target shard: pixel ids and float16 targets (rows, d_T)."""
    table = _read(path)
    targets = table.column("target").chunk(0)
    width = targets.type.list_size
    flat = targets.flatten().to_numpy(zero_copy_only=True)
    return _values(table, "pixel_id"), flat.reshape(-1, width)


def write_index(folder: Path, names: list[str], facts: dict[str, Any]) -> None:
    """List finished shards of ``folder`` in its ``index.json``.

    Args:
        folder: Folder of the shards.
        names: File names in their order.
        facts: What else a reader should know, e.g. rejected counts.
    """
    entries = [
        asdict(ShardEntry(name, _read(folder / name).num_rows, sha256_of(folder / name)))
        for name in names
    ]
    write_json(folder / INDEX, {"format": FORMAT, "shards": entries, **facts})


class ShardSet:
    """All shards of a folder as one sequence of rows, read by global row number."""

    def __init__(self, folder: Path) -> None:
        """Open a folder of d-pixel shards.

        Raises:
            DataError: The index is not of this format.
        """
        content = json.loads((folder / INDEX).read_text())
        if content.get("format") != FORMAT:
            raise DataError(
                f"an index of format {FORMAT}",
                found=str(content.get("format")),
                where=str(folder / INDEX),
                mend="Pack the archive again: dvc repro pack",
            )
        self.folder = folder
        self.entries = [ShardEntry(**entry) for entry in content["shards"]]
        self.starts = np.cumsum([0, *(entry.rows for entry in self.entries)])
        self._open: dict[int, DPixels] = {}

    def __len__(self) -> int:
        """Return the number of d-pixels."""
        return int(self.starts[-1])

    def shard(self, index: int) -> DPixels:
        """Return one shard, mapped; it stays open.

        Raises:
            DigestMismatch: Its row count is not the index's.
        """
        if index not in self._open:
            entry = self.entries[index]
            dpixels = read_dpixels(self.folder / entry.name)
            if len(dpixels) != entry.rows:
                raise DigestMismatch(
                    f"{entry.rows} rows",
                    found=str(len(dpixels)),
                    where=str(self.folder / entry.name),
                    mend="Restore it (dvc checkout) or pack again: dvc repro pack",
                )
            self._open[index] = dpixels
        return self._open[index]

    def take(self, rows: npt.NDArray[np.int64]) -> DPixels:
        """Return the d-pixels at these global rows, in this order."""
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.argsort(shards, kind="stable")
        parts = [
            self.shard(int(shard)).take(rows[shards == shard] - self.starts[shard])
            for shard in np.unique(shards)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(rows))
        return DPixels.concatenate(parts).take(back)


def _lists(flat: npt.NDArray[Any], offsets: npt.NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    values = pa.array(np.ascontiguousarray(flat), type=kind)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def _series(table: pa.Table, name: str, num_bands: int) -> Series:
    values, doys = table.column(name).chunk(0), table.column(f"{name}_doy").chunk(0)
    flat = values.values.to_numpy(zero_copy_only=True).reshape(-1, num_bands)
    offsets = doys.offsets.to_numpy(zero_copy_only=True)
    return Series(flat, doys.values.to_numpy(zero_copy_only=True), offsets)


def _values(table: pa.Table, name: str) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = table.column(name).chunk(0).to_numpy(zero_copy_only=True)
    return found


def _write(path: Path, table: pa.Table) -> None:
    aside = path.with_name(f".{path.name}.part")
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, table.num_rows))
    sync_file(aside)
    aside.replace(path)


def _read(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            "a readable Arrow shard", found=str(error), where=str(path), mend="dvc checkout"
        ) from error
