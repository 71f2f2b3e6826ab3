"""Which objects the pins stand for, and what their bytes must be.

A pinned folder is a listing: an object of its own that names every file by its MD5. Where a stage's
output holds ``manifest.json``, the SHA-256 of each file is known too, and the manifest's own is known
from the manifests of the stages that read it. MD5 only names an object; SHA-256 is what is trusted.
Listings and manifests are used only if their bytes have the digest that pins them.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.errors import DataError
from tasks.manifest import FORMAT, MANIFEST
from tasks.storing.pins import LISTING, Pin, inner_path
from tasks.storing.store import Store
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object, or a file of the workspace, and what it must be."""

    key: str
    """Where it is in its store."""
    files: tuple[str, ...]
    """Files of the project that have these bytes; of a listing, the folder with a slash at its end."""
    md5: str | None
    """MD5 that names it; None where only a manifest speaks of the file."""
    size: int | None = None
    """Bytes, if recorded."""
    sha256: frozenset[str] = frozenset()
    """What manifests say; more than one only if they contradict each other."""
    listings: tuple[str, ...] = ()
    """Keys of the listings that name it."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A pinned folder whose listing could be read."""

    pin: Pin
    """What pins it."""
    files: Mapping[str, str]
    """MD5 by path below the folder."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """Content of its ``manifest.json``; empty where it has none of ours."""


def key_of(md5: str) -> str:
    """Return where DVC keeps an object."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def wanted_pins(pins: Iterable[Pin]) -> list[Wanted]:
    """Return the objects that pins name themselves: single files, and listings of folders."""
    return merged(
        Wanted(
            key_of(pin.md5),
            (f"{pin.path}/" if pin.is_folder else pin.path,),
            pin.md5.removesuffix(LISTING),
            None if pin.is_folder else pin.size,
        )
        for pin in pins
    )


def read_folder(pin: Pin, stores: Iterable[Store]) -> Folder | None:
    """Read a folder's listing and manifest from the first store that has them undamaged.

    Raises:
        DataError: The listing has the right digest, but names a path outside its folder or is no
            listing at all.
    """
    stores = tuple(stores)
    content = _intact(pin.md5, stores)
    if content is None:
        return None
    files = _files_of(content, pin)
    manifest = _intact(files[MANIFEST], stores) if MANIFEST in files else None
    return Folder(pin, files, parse_manifest(manifest or b""))


def parse_manifest(content: bytes) -> Mapping[str, Any]:
    """Return a manifest's content; empty if it is none of ours, of which nothing can be said."""
    try:
        found = json.loads(content)
        known = found["format"] == FORMAT
        {name: (str(entry["sha256"]), int(entry["size"])) for name, entry in found["files"].items()}
        {str(name): str(digest) for name, digest in found["parents"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found if known else {}


def manifest_digests(workspace: Workspace, folders: Sequence[Folder]) -> dict[str, set[str]]:
    """Return the SHA-256 of files by path: of those in a manifest, and of manifests that are parents.

    A stage that has not been run again since its parent was speaks of the parent's old manifest.
    """
    found: dict[str, set[str]] = defaultdict(set)
    pinned = {(folder.pin.path, folder.pin.md5) for folder in folders}
    for folder in folders:
        for name, entry in folder.manifest.get("files", {}).items():
            found[f"{folder.pin.path}/{name}"].add(entry["sha256"])
        for stage, digest in folder.manifest.get("parents", {}).items():
            path = os.path.relpath(workspace.output(stage), workspace.root)
            if (path, folder.pin.reads.get(path)) in pinned:
                found[f"{path}/{MANIFEST}"].add(digest)
    return found


def wanted_files(folders: Iterable[Folder], sha256: Mapping[str, set[str]]) -> list[Wanted]:
    """Return the objects that folders list, with what is known of their bytes."""
    return merged(
        Wanted(
            key_of(md5),
            (path := f"{folder.pin.path}/{name}",),
            md5,
            folder.manifest.get("files", {}).get(name, {}).get("size"),
            frozenset(sha256.get(path, ())),
            (key_of(folder.pin.md5),),
        )
        for folder in folders
        for name, md5 in folder.files.items()
    )


def merged(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Return each object once: files of equal bytes share one."""
    found: dict[str, Wanted] = {}
    for one in wanted:
        other = found.get(one.key)
        found[one.key] = one if other is None else _both(other, one)
    return list(found.values())


def _both(one: Wanted, other: Wanted) -> Wanted:
    return replace(
        one,
        files=one.files + other.files,
        size=other.size if one.size is None else one.size,
        sha256=one.sha256 | other.sha256,
        listings=tuple(dict.fromkeys(one.listings + other.listings)),
    )


def _intact(md5: str, stores: Iterable[Store]) -> bytes | None:
    for store in stores:
        try:
            content = store.read(key_of(md5))
        except OSError:
            continue
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5.removesuffix(LISTING):
            return content
    return None


def _files_of(content: bytes, pin: Pin) -> dict[str, str]:
    try:
        entries = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(content)}
        if any(len(md5) != 32 or set(md5) - set("0123456789abcdef") for md5 in entries.values()):
            raise ValueError("a digest that is none")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "a list of {md5, relpath}",
            found=f"{type(error).__name__}: {error}",
            where=f"listing {pin.md5} of {pin.path}",
            mend=f"Pin {pin.path} again from good bytes: dvc commit {pin.owner}",
        ) from error
    return {inner_path(name, Path(pin.path)): md5 for name, md5 in entries.items()}
