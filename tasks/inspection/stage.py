"""A stage's output: what its manifest says, and whether the files still are what it says."""

import json
from pathlib import Path

from tasks.inspection.finding import Finding, Row, size_text
from tasks.manifest import FORMAT, MANIFEST, digest_of, read_manifest

KIND = "stage output"


def is_stage(path: Path) -> bool:
    """Return whether a folder is sealed by a manifest, or a file is one."""
    file = path / MANIFEST if path.is_dir() else path
    if file.name != MANIFEST or not file.is_file():
        return False
    try:
        return bool(json.loads(file.read_bytes())["format"] == FORMAT)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def describe_stage(path: Path, *, verify: bool) -> Finding:
    """Read a manifest.

    Args:
        path: Output folder, or its ``manifest.json``.
        verify: Hash every file again.

    Raises:
        DigestMismatch: With ``verify``: a file is missing, too many, or of other bytes.
    """
    folder = path if path.is_dir() else path.parent
    manifest = read_manifest(folder, verify=verify)
    size = sum(facts["size"] for facts in manifest.files.values())
    facts: Row = {
        "stage": manifest.stage,
        "digest": digest_of(folder),
        "key": manifest.key,
        "code": manifest.code,
        "lock": manifest.lock,
        "files": f"{len(manifest.files)}, {size_text(size)}",
        "verified": verify or "no, only read; --verify hashes every file",
        "parents": manifest.parents,
        "counts": manifest.counts,
        "params": manifest.params,
    }
    files = [
        {"file": name, "size": size_text(found["size"]), "sha256": found["sha256"]}
        for name, found in sorted(manifest.files.items())
    ]
    return Finding(KIND, str(path), facts, {"Files": files})
