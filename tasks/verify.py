"""``tessera verify``: whether what DVC keeps still has the bytes that were stored.

DVC asks of an object only whether it exists; damage is noticed when somebody pulls it, and then
without a name. Here every object that ``dvc.lock`` and the ``.dvc`` files reference is read and
hashed, in the remote or on this machine, and what is wrong is named by the file of the project that
it belongs to. Objects that only older commits reference are not looked at, nor is the run cache.
"""

from collections.abc import Sequence

from tasks.files import files_below
from tasks.manifest import MANIFEST
from tasks.storing.check import Checked, check
from tasks.storing.objects import (
    Folder,
    Wanted,
    manifest_digests,
    merged,
    parse_manifest,
    read_folder,
    wanted_files,
    wanted_pins,
)
from tasks.storing.pins import Pin, inner_path, read_pins
from tasks.storing.quarantine import quarantine as move_aside
from tasks.storing.remote import find_remote, open_cache, read_settings
from tasks.storing.report import Fault, Report
from tasks.storing.store import Store, open_folder
from tasks.workspace import Workspace

_LABEL = "verify"


def verify_remote(
    workspace: Workspace,
    targets: Sequence[str] = (),
    *,
    remote: str | None = None,
    workers: int = 8,
    sample: int | None = None,
    quarantine: bool = False,
) -> Report:
    """Verify a DVC remote.

    Args:
        workspace: The project.
        targets: Stages, ``.dvc`` files or paths; everything when empty.
        remote: Name of the remote; the default one without it.
        workers: Objects that are read at once.
        sample: Read this many files, drawn anew each time; listings and sizes are checked anyway.
        quarantine: Move what is wrong aside, so that ``dvc push`` replaces it.

    Raises:
        ParamsError: No such target or remote, or a remote of an unknown kind.
        DataError: What pins the objects is malformed.
        StorageError: The remote does not answer.
    """
    settings = read_settings(workspace)
    found = find_remote(settings, remote)
    store, cache = found.open(), open_cache(workspace, settings)
    pins = read_pins(workspace, targets)
    notes = [
        f"{p.path}: is in remote {p.remote}" for p in pins if p.remote not in (None, found.name)
    ]
    pins = [pin for pin in pins if pin.remote in (None, found.name)]
    done = check(store, wanted_pins(p for p in pins if p.is_folder), label=_LABEL, workers=workers)
    folders, unlisted = _folders(pins, store, cache)
    digests = manifest_digests(workspace, folders)
    wanted = wanted_pins(p for p in pins if not p.is_folder) + wanted_files(folders, digests)
    done.add(check(store, merged(wanted), label=_LABEL, workers=workers, sample=sample))
    _ask_cache(cache, done.faults, workers)
    if quarantine:
        move_aside(store, done.faults)
    where = f"remote {found.name} ({found.url})"
    return _report(where, done, notes + unlisted, _mend_remote(done.faults, quarantine))


def verify_local(
    workspace: Workspace,
    targets: Sequence[str] = (),
    *,
    workers: int = 8,
    sample: int | None = None,
) -> Report:
    """Verify this checkout: outputs against their manifests, the DVC cache against its names.

    What is not here at all is no fault: a checkout need not hold everything. Arguments and errors
    are those of ``verify_remote``.
    """
    cache = open_cache(workspace, read_settings(workspace))
    files = open_folder(str(workspace.root))
    pins = read_pins(workspace, targets)
    folders, _ = _folders(pins, cache)
    digests = manifest_digests(workspace, folders)
    objects = merged(wanted_pins(pins) + wanted_files(folders, digests))
    done = check(cache, objects, label="verify cache", workers=workers, sample=sample)
    absent = sum(fault.kind == "missing" for fault in done.faults)
    done.faults = [fault for fault in done.faults if fault.kind != "missing"]
    notes = [f"{absent} objects are not in the cache; `dvc fetch` gets them"] if absent else []
    here = [pin for pin in pins if (workspace.root / pin.path).exists()]
    notes += [f"{pin.path}: not here; `dvc pull` gets it" for pin in pins if pin not in here]
    listed = {folder.pin.path: folder for folder in folders}
    wanted = [one for pin in here for one in _in_workspace(workspace, pin, listed, digests)]
    done.add(check(files, wanted, label="verify files", workers=workers, sample=sample))
    done.faults += [fault for pin in here for fault in _extra(workspace, pin, wanted)]
    mend = (
        "Delete what is named, then restore it: files by `dvc checkout`, objects of the cache by "
        "`dvc fetch`, or by `dvc commit` where the file in the project is right."
    )
    return _report(f"checkout {workspace.root}", done, notes, mend if done.faults else "")


def _ask_cache(cache: Store, faults: Sequence[Fault], workers: int) -> None:
    wanted = [fault.wanted for fault in faults]
    bad = {
        fault.wanted.key for fault in check(cache, wanted, label="cache", workers=workers).faults
    }
    for fault in faults:
        fault.good_here = fault.wanted.key not in bad


def _folders(pins: Sequence[Pin], *stores: Store) -> tuple[list[Folder], list[str]]:
    read = [(pin, read_folder(pin, stores)) for pin in pins if pin.is_folder]
    notes = [
        f"{pin.path}: files not looked at, no undamaged listing" for pin, one in read if not one
    ]
    return [one for _, one in read if one], notes


def _in_workspace(
    workspace: Workspace, pin: Pin, listed: dict[str, Folder], digests: dict[str, set[str]]
) -> list[Wanted]:
    if not pin.is_folder:
        return [Wanted(pin.path, (pin.path,), pin.md5, pin.size)]
    names: dict[str, str | None]
    if folder := listed.get(pin.path):
        names, manifest = dict(folder.files), folder.manifest
    else:  # never committed to this cache: the manifest alone says what belongs
        seal = workspace.root / pin.path / MANIFEST
        manifest = parse_manifest(seal.read_bytes() if seal.is_file() else b"")
        names = dict.fromkeys(manifest.get("files", {}))
    found = []
    for name, md5 in names.items():
        path = f"{pin.path}/{inner_path(name, workspace.root / pin.path)}"
        known = manifest.get("files", {}).get(name, {})
        sha256 = digests.get(path, set()) | ({known["sha256"]} if known else set())
        found.append(Wanted(path, (path,), md5, known.get("size"), frozenset(sha256)))
    return found


def _extra(workspace: Workspace, pin: Pin, wanted: Sequence[Wanted]) -> list[Fault]:
    if not (workspace.root / pin.path / MANIFEST).is_file():
        return []  # only a manifest says that a folder holds nothing else
    known = {one.key for one in wanted} | {f"{pin.path}/{MANIFEST}"}
    below = (path.relative_to(workspace.root) for path in files_below(workspace.root / pin.path))
    extra = [path.as_posix() for path in below if path.as_posix() not in known]
    return [Fault("extra", Wanted(path, (path,), None), str(workspace.root)) for path in extra]


def _mend_remote(faults: Sequence[Fault], quarantined: bool) -> str:
    wrong = [fault for fault in faults if fault.kind != "unreadable"]
    if not faults:
        return ""
    if not wrong:
        return "Make what is named readable for these credentials, then verify again."
    missing = {fault.wanted.key for fault in wrong if fault.kind == "missing"}
    # A listing that exists, and anything that is not missing, keeps DVC from uploading.
    stuck = any(fault.kind != "missing" or set(fault.wanted.listings) - missing for fault in wrong)
    first = "`tessera verify --quarantine`, then " if stuck and not quarantined else ""
    good = sum(bool(fault.good_here) for fault in wrong)
    where = f"the cache of this machine has the right bytes of {good} of {len(wrong)}"
    other = "" if good == len(wrong) else "; push the rest from a machine that has them, or rerun"
    return f"{first}`dvc push`; {where}{other}. Then verify again."


def _report(where: str, done: Checked, notes: Sequence[str], mend: str) -> Report:
    return Report(where, done.objects, done.read, done.bytes, done.faults, notes, mend)
