"""What DVC has pinned: every output in ``dvc.lock`` and in the ``.dvc`` files, with its digest.

DVC's command line says which files there are (so that ``.dvcignore`` counts); their YAML is a public
format and is read here. Both come from a checkout, so nothing in them is trusted: a digest must look
like one, a path must stay in the project. What DVC keeps nowhere else (``cache: false``,
``push: false``, outputs imported from another repository) is no pin.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.errors import DataError, ParamsError
from tasks.running.graph import run_dvc
from tasks.workspace import Workspace

LISTING = ".dir"
"""Ending of the digest of a folder; the object lists the files of the folder."""

_DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")
_LOCK = "dvc.lock"
_VARIABLE = re.compile(r"\\\$\\\{.*?\\\}")


@dataclass(frozen=True, slots=True)
class Pin:
    """One output that DVC stores by its digest."""

    path: str
    """Path in the project, with forward slashes."""
    owner: str
    """Address of the stage that makes it, e.g. ``distill@N``, or the ``.dvc`` file that pins it."""
    md5: str
    """MD5 of the file, or of the listing of a folder, which then ends with ``.dir``."""
    size: int | None = None
    """Bytes in all, if recorded."""
    remote: str | None = None
    """Remote that it goes to, if not the default one."""
    reads: Mapping[str, str] = field(default_factory=dict, compare=False)
    """MD5 of what its stage had read, by path."""

    @property
    def is_folder(self) -> bool:
        """Whether the digest names a listing."""
        return self.md5.endswith(LISTING)


def read_pins(workspace: Workspace, targets: Sequence[str] = ()) -> list[Pin]:
    """Return what is pinned, in the order of the files that pin it.

    Args:
        workspace: The project.
        targets: Stages (``pack``, ``distill``, ``distill@N``), ``.dvc`` files, or paths; of a path
            every output that it holds or that holds it. All of them when empty.

    Raises:
        ParamsError: A target names nothing that is pinned, or nothing is pinned at all.
        DataError: A file that pins is malformed.
    """
    names = run_dvc(workspace, "stage", "list", "--all", "--name-only").split()
    files = dict.fromkeys(_file_of(name) for name in names)
    pins = [pin for name in files for pin in _pins_in(workspace, PurePosixPath(name))]
    if not pins:
        raise ParamsError(
            f"outputs pinned in {_LOCK} or in .dvc files",
            found="none",
            where=str(workspace.root),
            mend="Run the pipeline first: tessera run",
        )
    if not targets:
        return pins
    return list(dict.fromkeys(pin for name in targets for pin in _chosen(workspace, pins, name)))


def inner_path(path: str, where: Path) -> str:
    """Return a path from a file that is not trusted, if it stays below the folder that it is in.

    Raises:
        DataError: It is absolute, empty, or leads out.
    """
    clean = os.path.normpath(path)
    if not path or clean.startswith(("/", "..")) or "\\" in path or "\0" in path:
        raise DataError(
            "a path below its folder",
            found=repr(path),
            where=str(where),
            mend="Restore the file from version control; do not pull what it names.",
        )
    return clean


def _file_of(name: str) -> str:
    if name.endswith(".dvc"):
        return name
    folder = PurePosixPath(name.rpartition(":")[0]).parent
    return str(folder / _LOCK)


def _pins_in(workspace: Workspace, name: PurePosixPath) -> Iterator[Pin]:
    path = workspace.root / inner_path(str(name), workspace.root)
    if not path.is_file():
        return  # stages that have never run have no lock file
    content = _mapping(_load(path), path)
    folder = name.parent
    if name.suffix == ".dvc":
        if any("repo" in dep for dep in content.get("deps") or ()):
            return
        folder /= str(content.get("wdir", "."))
        for out in content.get("outs") or ():
            yield from _pin(path, folder, str(name), _mapping(out, path), _mapping(out, path))
        return
    settings = _settings(path.with_name("dvc.yaml"))
    for stage, locked in _mapping(content.get("stages") or {}, path).items():
        address = stage if folder == PurePosixPath() else f"{folder / 'dvc.yaml'}:{stage}"
        reads = _reads(locked, path, folder)
        for out in locked.get("outs") or ():
            entry = _mapping(out, path)
            own = (flags for known, flags in settings if known.fullmatch(str(entry.get("path"))))
            for pin in _pin(path, folder, address, entry, next(own, {})):
                yield replace(pin, reads=reads)


def _reads(locked: Any, where: Path, folder: PurePosixPath) -> dict[str, str]:
    deps = (_mapping(dep, where) for dep in _mapping(locked, where).get("deps") or ())
    return {
        os.path.normpath(folder / str(dep["path"])): str(dep["md5"]) for dep in deps if "md5" in dep
    }


def _pin(
    where: Path, folder: PurePosixPath, owner: str, out: dict[str, Any], flags: Mapping[str, Any]
) -> Iterator[Pin]:
    digest = out.get("md5")
    if digest is None or flags.get("cache") is False or flags.get("push") is False:
        return
    if out.get("hash") != "md5" or not _DIGEST.fullmatch(str(digest)):
        raise DataError(
            "`hash: md5` and a digest of 32 hexadecimal digits",
            found=f"hash {out.get('hash')!r}, md5 {digest!r}",
            where=f"{where}: {out.get('path')}",
            mend="If DVC 2 wrote it: dvc cache migrate --dvc-files. Else restore the file.",
        )
    path = inner_path(str(folder / str(out.get("path", ""))), where)
    size = out.get("size")
    remote = flags.get("remote")
    yield Pin(path, owner, str(digest), size if isinstance(size, int) else None, remote)


def _settings(path: Path) -> list[tuple[re.Pattern[str], Mapping[str, Any]]]:
    """Return what ``dvc.yaml`` says of outputs beyond their paths; the lock file does not repeat it."""
    found = []
    for stage in (_load(path).get("stages") or {}).values():
        body = {**stage, **(stage.get("do") or {})}
        for section in ("outs", "metrics", "plots"):
            for out in body.get(section) or ():
                for name, flags in out.items() if isinstance(out, dict) else ():
                    pattern = _VARIABLE.sub(".*", re.escape(str(name)))
                    found.append((re.compile(pattern), flags or {}))
    return found


def _load(path: Path) -> Any:
    try:
        return YAML(typ="safe").load(path.read_text()) or {}
    except (YAMLError, UnicodeDecodeError) as error:
        raise _malformed(path, str(error).splitlines()[0]) from error


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(path, type(value).__name__)
    return value


def _malformed(path: Path, found: str) -> DataError:
    mend = "Restore it from version control."
    return DataError("YAML as DVC writes it", found=found, where=str(path), mend=mend)


def _chosen(workspace: Workspace, pins: Sequence[Pin], target: str) -> list[Pin]:
    given = Path.cwd() / target
    inside = given.is_relative_to(workspace.root)
    place = PurePosixPath(os.path.relpath(given, workspace.root) if inside else target)
    found = [
        pin
        for pin in pins
        if target in (pin.owner, pin.owner.partition("@")[0])
        or str(place) == pin.owner
        or place.is_relative_to(pin.path)
        or PurePosixPath(pin.path).is_relative_to(place)
    ]
    if not found:
        raise ParamsError(
            "a stage, a .dvc file or a path that DVC has pinned",
            found=repr(target),
            where=_LOCK,
            mend=f"Pinned are: {', '.join(dict.fromkeys(pin.owner for pin in pins))}",
        )
    return found
