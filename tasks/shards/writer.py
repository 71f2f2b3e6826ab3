"""Write one shard, block after block, hashing on the way: no byte is read again for its digest."""

from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.ipc

from tasks.files import sync_file
from tasks.shards.index import Block, ShardEntry

_MARK = b"ARROW1\0\0"


class ShardWriter:
    """Writes one shard, block after block; it appears under its name when it is whole.

    Args:
        path: File to write.
        schema: ``DPIXEL_SCHEMA`` or ``target_schema``.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._aside = path, path.with_name(f".{path.name}.part")
        # Arrow writes its mark and the schema together with the first block, which begins behind them.
        header = len(_MARK) + schema.serialize().size
        self._sink = _HashingFile(self._aside, header)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._sink, mode="w"), schema)
        self._rows = 0
        self.blocks: list[Block] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sink.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Append one block."""
        offset = self._sink.start_block()
        self._writer.write_batch(batch)
        length = self._sink.size - offset
        self.blocks.append(Block(offset, length, batch.num_rows, self._sink.block.digest()))
        self._rows += batch.num_rows

    def finish(self) -> ShardEntry:
        """Flush the file to the disk and give it its name."""
        self._writer.close()
        self._sink.close()
        sync_file(self._aside)
        self._aside.replace(self._path)
        return ShardEntry(
            self._path.name, self._rows, self._sink.size, self._sink.whole.hexdigest()
        )


class _HashingFile:
    """A file that hashes what is written to it, as a whole and since the last block began.

    Args:
        path: File to write.
        header: Bytes at its beginning that belong to no block.
    """

    closed = False

    def __init__(self, path: Path, header: int) -> None:
        self._stream, self._header = path.open("wb"), header
        self.whole, self.block, self.size = sha256(), sha256(), 0

    def start_block(self) -> int:
        """Begin a block; return its first byte."""
        self.block = sha256()
        return max(self.size, self._header)

    def write(self, data: Any) -> int:
        content = memoryview(data)
        self.whole.update(content)
        self.block.update(content[max(0, self._header - self.size) :])
        written = self._stream.write(content)
        self.size += written
        return written

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()
