"""The rows of a shard as Arrow record batches, and back without a copy.

A row of a d-pixel shard is a ragged d-pixel: for each sensor the list of its valid observations in
time order, no padding and no mask. Row i of a target corpus belongs to row i of its d-pixel corpus.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series
from tasks.errors import ParamsError


def _observations(num_bands: int, kind: pa.DataType) -> pa.DataType:
    values = pa.list_(pa.field("band", kind, nullable=False), num_bands)
    members = [
        pa.field("values", values, nullable=False),
        pa.field("doy", pa.int16(), nullable=False),
    ]
    return pa.list_(pa.field("observation", pa.struct(members), nullable=False))


_MOST_OBSERVATIONS = np.iinfo(np.int32).max
_SENSORS = {
    "s2": (len(S2_BANDS), pa.uint16()),
    "s1_asc": (len(S1_BANDS), pa.int16()),
    "s1_desc": (len(S1_BANDS), pa.int16()),
}
DPIXEL_SCHEMA = pa.schema(
    [
        pa.field("pixel_id", pa.uint64(), nullable=False),
        *(
            pa.field(name, _observations(num_bands, kind), nullable=False)
            for name, (num_bands, kind) in _SENSORS.items()
        ),
    ],
    metadata={"s2_bands": " ".join(S2_BANDS), "s1_bands": " ".join(S1_BANDS)},
)


def encode_dpixels(dpixels: DPixels) -> pa.RecordBatch:
    """Return d-pixels as one record batch of ``DPIXEL_SCHEMA``; equal ones give equal bytes.

    Raises:
        ParamsError: A sensor has more observations than 32-bit offsets can count.
    """
    columns = [pa.array(dpixels.pixel_id)]
    for name in _SENSORS:
        series: Series = getattr(dpixels, name)
        offsets = pa.array(_narrow(series.offsets))
        kind = DPIXEL_SCHEMA.field(name).type
        values, days = kind.value_type.field("values"), kind.value_type.field("doy")
        flat = pa.array(np.ascontiguousarray(series.values).reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(flat, type=values.type)
        doys = pa.array(series.doy.astype(np.int16, copy=False))
        observations = pa.StructArray.from_arrays([lists, doys], fields=[values, days])
        columns.append(pa.ListArray.from_arrays(offsets, observations, type=kind))
    return pa.RecordBatch.from_arrays(columns, schema=DPIXEL_SCHEMA)


def _narrow(offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    if offsets[-1] > _MOST_OBSERVATIONS:
        raise ParamsError(
            f"at most {_MOST_OBSERVATIONS:,} observations of a sensor in a block",
            found=f"{offsets[-1]:,} in {len(offsets) - 1:,} rows",
            where="pack.block_rows",
            mend="Lower pack.block_rows; blocks of about 2 MB serve training best.",
        )
    return offsets.astype(np.int32)


def decode_dpixels(batch: pa.RecordBatch) -> DPixels:
    """Return the d-pixels of a record batch; their arrays are views of its memory."""
    sensors = [_series(batch.column(name), width) for name, (width, _) in _SENSORS.items()]
    return DPixels(batch.column("pixel_id").to_numpy(zero_copy_only=True), *sensors)


def _series(lists: pa.ListArray, num_bands: int) -> Series:
    observations = lists.values
    flat = observations.field(0).values.to_numpy(zero_copy_only=True)
    doys = observations.field(1).to_numpy(zero_copy_only=True)
    offsets = lists.offsets.to_numpy(zero_copy_only=True).astype(np.int64)
    return Series(flat.reshape(-1, num_bands), doys, offsets)


TargetDtype = Literal["float16", "float32"]
"""Number formats of targets on the disk."""

TARGET_DTYPES: dict[TargetDtype, pa.DataType] = {"float16": pa.float16(), "float32": pa.float32()}
"""The same as Arrow types."""

Targets = npt.NDArray[np.floating[Any]]
"""Targets (rows, d_T) in one of them."""


def target_schema(width: int, dtype: TargetDtype = "float16") -> pa.Schema:
    """Return the schema of a target shard: ``width`` numbers a row.

    Decision: half precision unless asked. Targets have mean 0 and variance 1 over their coordinates,
    and only their direction enters the loss; half the bytes of billions of rows is worth 1e-3.
    """
    target = pa.list_(pa.field("coordinate", TARGET_DTYPES[dtype], nullable=False), width)
    return pa.schema(
        [
            pa.field("pixel_id", pa.uint64(), nullable=False),
            pa.field("target", target, nullable=False),
        ]
    )


def encode_targets(
    pixel_id: npt.NDArray[np.uint64], targets: npt.NDArray[Any], schema: pa.Schema
) -> pa.RecordBatch:
    """Return targets (rows, d_T) as one record batch, rounded to the number format of the schema."""
    kind = schema.field("target").type
    dtype = kind.value_type.to_pandas_dtype()
    flat = np.ascontiguousarray(targets, dtype=dtype).reshape(-1)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
    return pa.RecordBatch.from_arrays([pa.array(pixel_id), lists], schema=schema)


def decode_targets(batch: pa.RecordBatch) -> tuple[npt.NDArray[np.uint64], Targets]:
    """Return pixel ids and targets (rows, d_T), views of the batch's memory."""
    lists = batch.column("target")
    flat = lists.values.to_numpy(zero_copy_only=True)
    ids = batch.column("pixel_id").to_numpy(zero_copy_only=True)
    return ids, flat.reshape(-1, lists.type.list_size)
