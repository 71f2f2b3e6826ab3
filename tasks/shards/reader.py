"""The rows of one block, from its bytes.

What comes from a file is checked in full before numpy sees it: offsets that point outside would
read memory that is not the block's.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from models.dpixel import DPixels
from tasks.shards.rows import (
    DPIXEL_SCHEMA,
    TargetDtype,
    Targets,
    decode_dpixels,
    decode_targets,
    target_schema,
)


def read_dpixels(content: Any) -> DPixels:
    """Return the d-pixels of a block; their arrays are views of its bytes.

    Raises:
        ValueError: The bytes are no record batch of d-pixels.
    """
    return decode_dpixels(_batch(content, DPIXEL_SCHEMA))


def read_targets(
    content: Any, width: int, dtype: TargetDtype = "float16"
) -> tuple[npt.NDArray[np.uint64], Targets]:
    """Return pixel ids and targets (rows, ``width``) of a block, views of its bytes.

    Raises:
        ValueError: The bytes are no record batch of targets of this width and number format.
    """
    return decode_targets(_batch(content, target_schema(width, dtype)))


def _batch(content: Any, schema: pa.Schema) -> pa.RecordBatch:
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(content), schema)
        batch.validate(full=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"not a record batch of {schema.names}: {error}") from error
    return batch
