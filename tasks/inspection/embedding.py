"""Embeddings of tiles: a record with its arrays, a folder of them, or a whole product.

Arrays are mapped and read a few rows at a time.
"""

import json
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from models.quantize import dequantize
from tasks.errors import DataError, DigestMismatch
from tasks.files import sha256_of
from tasks.inspection.finding import Finding, Row, size_text
from tasks.tiles import Array

TILE = "embeddings of a tile"
FOLDER = "embeddings of tiles"
FORMATS = ("tessera-embedding/1", "tessera-embeddings/1")
"""Formats of the records of ``tessera embed`` and of the stage ``export``."""
_ROWS = 64


def record_of(path: Path) -> Path | None:
    """Return the record that a file belongs to: itself, or the one beside an array; None if none.

    In a product the record is ``tile.json``, elsewhere it is named like the array.
    """
    if path.suffix == ".npy":
        stem = path.stem.removesuffix("_scales").removesuffix("_observations")
        beside = (path.with_name(f"{stem}.json"), path.with_name("tile.json"))
        return next((found for found in beside if is_record(found)), None)
    return path if is_record(path) else None


def is_record(path: Path) -> bool:
    """Return whether a file is the record of an embedded tile."""
    try:
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else {}
        return content["format"] in FORMATS and "tile" in content
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def is_embedding(path: Path) -> bool:
    """Return whether a file is the record or an array of an embedded tile."""
    return path.is_file() and record_of(path) is not None


def is_embedding_folder(path: Path) -> bool:
    """Return whether there are records of embedded tiles below a folder."""
    return path.is_dir() and any(is_record(found) for found in path.rglob("*.json"))


def describe_folder(path: Path) -> Finding:
    """List the embedded tiles below a folder, by their records."""
    records = sorted(found for found in path.rglob("*.json") if is_record(found))
    rows = [_record_row(path, record) for record in records]
    sizes = [found.stat().st_size for found in path.rglob("*.npy")]
    facts: Row = {"tiles": len(rows), "arrays": f"{len(sizes)}, {size_text(sum(sizes))}"}
    facts["models"] = sorted({row["model"] for row in rows})
    return Finding(FOLDER, str(path), facts, {"Tiles": rows})


def _record_row(root: Path, record: Path) -> Row:
    content = json.loads(record.read_bytes())
    shape = content.get("shape") or [None, None]
    return {
        "record": record.relative_to(root).as_posix(),
        "year": content.get("year"),
        "height": shape[0],
        "width": shape[1],
        "dim": content.get("dim") or shape[-1],
        "model": str(content.get("model", {}).get("checkpoint", ""))[:12],
    }


def describe_embedding(path: Path, *, verify: bool) -> Finding:
    """Look into one embedded tile.

    Raises:
        DataError: An array is missing or cannot be read.
        DigestMismatch: With ``verify``: an array has other bytes than the record says.
    """
    record = record_of(path) or path
    content = json.loads(record.read_bytes())
    if verify:
        _verify(record, content)
    values, scales = open_arrays(record)
    facts: Row = {"layout": f"{values.dtype} {values.shape}"} | _no_data(values, scales)
    facts["verified"] = verify or "no, only read; --verify hashes every array"
    known = {name: value for name, value in content.items() if name not in ("files", "source")}
    facts |= known | {"source files": len(content.get("source", {}))}
    return Finding(TILE, str(record), facts, {"Numbers": _ranges(values, scales)})


def open_arrays(record: Path) -> tuple[Array, Array | None]:
    """Map the embeddings of a record (H, W, dim), and their scales (H, W) where they are codes.

    Raises:
        DataError: An array is missing or cannot be read.
    """
    name = json.loads(record.read_bytes())["tile"]
    if Path(name).name != name:
        raise DataError(
            "the name of a tile", found=str(name), where=str(record), mend="Embed the tile again."
        )
    values = _open(record.with_name(f"{name}.npy"))
    scales = record.with_name(f"{name}_scales.npy")
    return values, _open(scales) if values.dtype == np.int8 else None


def thinned_field(record: Path, side: int) -> tuple[npt.NDArray[np.float32], int]:
    """Return the embeddings (h, w, dim) of every n-th pixel, at most ``side`` a side, and n.

    Raises:
        DataError: An array is missing or cannot be read.
    """
    values, scales = open_arrays(record)
    step = -(-max(values.shape[:2]) // side)
    part = np.asarray(values[::step, ::step])
    field = part if scales is None else dequantize(part, np.asarray(scales[::step, ::step]))
    return field, step


def _open(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TokenError) as error:
        raise DataError(
            "a readable array", found=str(error), where=str(path), mend="Embed the tile again."
        ) from error


def _verify(record: Path, content: dict[str, Any]) -> None:
    for name, digest in content.get("files", {}).items():
        path = record.with_name(Path(name).name)
        found = sha256_of(path) if path.is_file() else "no such file"
        if found != digest:
            raise DigestMismatch(
                f"sha256 {digest[:12]}",
                found=found[:12],
                where=str(path),
                mend="Embed the tile again, into the same folder.",
            )


def _no_data(values: Array, scales: Array | None) -> Row:
    first = values[..., 0] if scales is None else scales
    missing = sum(int(np.isnan(first[at : at + _ROWS]).sum()) for at in range(0, len(first), _ROWS))
    return {"pixels": int(first.size), "without an embedding": missing}


def _ranges(values: Array, scales: Array | None) -> list[Row]:
    """Measure the embeddings: range of the coordinates, and length of the vectors."""
    low, high, lengths, num = np.inf, -np.inf, 0.0, 0
    for at in range(0, len(values), _ROWS):
        part = np.asarray(values[at : at + _ROWS])
        vectors = part if scales is None else dequantize(part, scales[at : at + _ROWS])
        known = vectors[np.isfinite(vectors[..., 0])]
        if len(known):
            low, high = min(low, float(known.min())), max(high, float(known.max()))
            lengths += float(np.linalg.norm(known, axis=1).sum())
            num += len(known)
    if not num:
        return []
    numbers = {"lowest coordinate": low, "highest coordinate": high}
    numbers["mean length of a vector"] = lengths / num
    return [{"what": name, "value": float(value)} for name, value in numbers.items()]
