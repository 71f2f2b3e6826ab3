"""Folders of an archive in which no tile can be found, and why: whoever reads one is told of them."""

import os
from pathlib import Path

from tasks.tiles import OPTICAL, TileRef, tiles_root


def folders_without_tile(tiles: Path, refs: list[TileRef]) -> dict[str, str]:
    """Return folders in which no tile can be found, and why; what tiles keep inside is theirs."""
    root, found = tiles_root(tiles), {}
    ours = {ref.folder for ref in refs}
    for place, folders, _ in os.walk(root):
        if Path(place) in ours:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
        for folder in (Path(place, name) for name in folders):
            key = folder.relative_to(root).as_posix()
            if not os.access(folder, os.R_OK | os.X_OK):
                found[key] = f"expected a folder that may be read; found no permission: {folder}"
            elif folder.is_symlink() and any(folder.rglob(OPTICAL[0])):
                found[key] = f"expected a folder; found a link, which is not followed: {folder}"
            elif not any(folder.iterdir()):
                found[key] = "expected tile files; found an empty folder"
    return dict(sorted(found.items()))
