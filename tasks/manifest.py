"""What a stage wrote: ``manifest.json``, the last file of every output folder.

Present means complete. A manifest names each file with its size and SHA-256, the parents by the
digest of their manifests, the resolved parameters, and the digests of the code and of the lock file
that made it. Its own digest is the SHA-256 of its bytes, so a manifest pins the whole history below.

Decision: what differs between two equal runs (wall time, commit, host) is kept out of it, in
``artifacts/provenance/<stage>.json``. Otherwise two runs on the same inputs would differ in their
bytes, and DVC would run everything downstream again for a clock reading.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.errors import DigestMismatch, LineageError
from tasks.files import canonical_json, files_below, sha256_of

MANIFEST = "manifest.json"
FORMAT = "tessera-manifest/1"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``manifest.json``."""

    stage: str
    """Stage address, e.g. ``pack`` or ``distill@N``."""
    key: str
    """SHA-256 over parameters, parents, code and lock file: equal keys give equal bytes."""
    params: dict[str, Any]
    """The resolved parameters of the stage, its seed among them."""
    parents: dict[str, str]
    """Digest of each input by name: a stage's manifest, or the raw archive's catalogue."""
    code: str
    """SHA-256 over the source files that ``dvc.yaml`` declares for the stage."""
    lock: str
    """SHA-256 over the lock files."""
    counts: dict[str, float]
    """What was made, counted: tiles, d-pixels, steps, parameters."""
    files: dict[str, dict[str, Any]]
    """``{relative path: {"sha256": ..., "size": bytes}}`` of every file but this one."""
    format: str = FORMAT

    def to_bytes(self) -> bytes:
        """Serialise canonically: equal manifests are equal bytes."""
        return canonical_json(asdict(self)).encode()


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """List every file below ``folder`` with its size in bytes and SHA-256."""
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256_of(path),
            "size": path.stat().st_size,
        }
        for path in files_below(folder)
        if path != folder / MANIFEST
    }


def digest_of(folder: Path) -> str:
    """Return the digest that stands for a whole output: SHA-256 of its manifest.

    Raises:
        LineageError: The folder has no manifest, so the output is not complete.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise LineageError(
            f"a finished output with {MANIFEST}",
            found="no manifest" if folder.exists() else "nothing",
            where=str(folder),
            mend=f"Run the stage that makes it: dvc repro {stage_of(folder)}",
        )
    return sha256_of(path)


def stage_of(folder: Path) -> str:
    """Return the address of the stage that makes an output folder, e.g. ``distill@N``."""
    parent = folder.parent.name
    return folder.name if parent == "artifacts" else f"{parent}@{folder.name}"


def read_manifest(folder: Path, *, verify: bool = False) -> Manifest:
    """Read a finished output's manifest.

    Args:
        folder: Output folder of a stage.
        verify: Hash every file again and compare; reads the whole output once.

    Raises:
        LineageError: No manifest there, or one of another format.
        DigestMismatch: A file is missing, too many, or has other bytes than recorded.
    """
    digest_of(folder)
    content = json.loads((folder / MANIFEST).read_text())
    if content.get("format") != FORMAT:
        raise LineageError(
            f"a manifest of format {FORMAT}",
            found=str(content.get("format")),
            where=str(folder / MANIFEST),
            mend="It was written by another version: run the stage again.",
        )
    manifest = Manifest(**content)
    if verify:
        _compare(folder, manifest)
    return manifest


def _compare(folder: Path, manifest: Manifest) -> None:
    found = describe_files(folder)
    for name in sorted(found.keys() | manifest.files.keys()):
        if found.get(name) == manifest.files.get(name):
            continue
        state = "nothing" if name not in found else f"sha256 {found[name]['sha256'][:12]}"
        recorded = manifest.files.get(name)
        raise DigestMismatch(
            f"sha256 {recorded['sha256'][:12]}" if recorded else "no such file",
            found=state,
            where=str(folder / name),
            mend=f"Restore it (dvc checkout, dvc pull) or rerun: dvc repro -f {manifest.stage}",
        )
