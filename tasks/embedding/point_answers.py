"""What a model answers to a point table: its ids with ``embedding``, or with ``codes`` and ``scale``."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from models.quantize import quantize
from tasks.embedding.blocks import Embedded
from tasks.embedding.codes import check_codes
from tasks.points import PointTable, write_table

_CODES = {"codes": "int8", "scale": "float32"}
_VECTORS = {"embedding": "float32"}


def write_points(
    path: Path, table: PointTable, blocks: Iterable[Embedded], *, dim: int, as_codes: bool
) -> None:
    """Write the embeddings of a table, whose ``blocks`` come in order, cut to ``dim``.

    Raises:
        DataError: A block cannot be an embedding; see ``check_codes``.
    """
    kinds = _CODES if as_codes else _VECTORS
    write_table(path, table.ids, kinds, _answers(table, blocks, dim))


def _answers(table: PointTable, blocks: Iterable[Embedded], dim: int) -> Iterator[dict[str, Any]]:
    for block in blocks:
        codes, scales = quantize(block.embedding)
        check_codes(codes, scales, block, lambda row: f"row {row} of {table.path}")
        yield {
            "codes": codes[:, :dim],
            "scale": scales,
            "embedding": block.embedding[:, :dim],
        }
