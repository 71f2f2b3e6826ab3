"""Durable writes and digests of local files.

A crash at any moment must leave either the old file or the new one. So a file is written beside its
final name, flushed to the disk, and renamed; a folder likewise. Digests are SHA-256.
"""

import glob
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

_BLOCK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """Serialise to JSON with sorted keys and no variation, newline at the end.

    Raises:
        ValueError: ``value`` holds a NaN or an infinity, which JSON cannot say.
    """
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=True) + "\n"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with aside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write canonical JSON durably."""
    write_bytes(path, canonical_json(value).encode())


def sweep_parts(path: Path) -> None:
    """Remove what killed processes left of writing this file."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        writer = part.suffixes[-2][1:]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            part.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every regular file below ``folder``, sorted by its relative path."""
    found = (path for path in folder.rglob("*") if path.is_file())
    yield from sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to the disk."""
    for path in files_below(folder):
        sync_file(path)
    for inner in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync_folder(inner)


def swap_folder(built: Path, final: Path) -> None:
    """Put a finished folder in its place; an older one there is removed only after the swap."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    built.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def link_file(made: Path, path: Path) -> None:
    """Give a finished file a second place without a second copy, where the disk can."""
    try:
        os.link(made, path)
    except OSError:
        shutil.copyfile(made, path)


def release_pages(*arrays: npt.NDArray[Any]) -> None:
    """Give the pages of memory-mapped arrays back to the system, so that memory stays constant.

    What was written to them must be flushed before; they are read again where they are needed.
    """
    for array in arrays:
        source: Any = array
        while isinstance(source, np.ndarray):
            source = source.base
        if isinstance(source, mmap.mmap):
            source.madvise(mmap.MADV_DONTNEED)
