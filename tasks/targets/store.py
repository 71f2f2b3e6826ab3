"""The store of targets: one folder an address, there as a whole or not at all.

    <store>/3f/3fa9.../    an entry, see ``entry``
    <store>/.aside/        what is being made or removed; of no use to anybody else
    <store>/.locks/        one for each address

The one idea: an entry is built aside and renamed into its place, so a crash leaves nothing that looks
whole; and whoever takes an entry hashes what it took. A lock keeps two runs from making the same
targets at the same time, but nothing that is read depends on it.

It outlives the runs of the stage, and several projects may share it. It deliberately never removes
anything by itself: see ``upkeep``.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import DigestMismatch, ParamsError
from tasks.files import link_file, sync_folder, sync_tree
from tasks.targets.entry import ENTRY, TARGETS, Entry, read_entry, require_whole, write_entry

ASIDE, LOCKS = ".aside", ".locks"


class TargetStore:
    """A folder of targets by content.

    Args:
        folder: Made at first use.

    Raises:
        ParamsError: The address of something else than a folder.
    """

    def __init__(self, folder: Path) -> None:
        if ":/" in str(folder) or (folder.exists() and not folder.is_dir()):
            raise ParamsError(
                "a folder on this machine or a mounted disk",
                found=str(folder),
                where="TESSERA_TARGETS",
                mend="Name a folder, or unset it to keep targets in the project.",
            )
        self.folder = folder

    def place_of(self, address: str) -> Path:
        """Return the folder of an entry, whether it is there or not."""
        return self.folder / address[:2] / address

    @contextmanager
    def alone(self, address: str, *, wait: bool) -> Iterator[bool]:
        """Be the only one who makes or removes this entry.

        Args:
            address: The entry.
            wait: Wait for whoever is at it.

        Yields:
            Whether that is so; without waiting it may not be.
        """
        locks = self.folder / LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / address)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def take(self, address: str, path: Path) -> Entry | None:
        """Put the targets of an address at a path, hashed there; ``None`` where there are none.

        The path gets a hard link where the disk allows one, else a copy.

        Raises:
            DigestMismatch: The entry is damaged; nothing is left at the path.
        """
        place = self.place_of(address)
        if not place.is_dir():
            return None
        try:
            entry = read_entry(place)
            with suppress(FileNotFoundError):  # said of the path, where it will be missing
                link_file(place / TARGETS, path)
            require_whole(place, entry, path)
        except DigestMismatch:
            path.unlink(missing_ok=True)
            if not place.is_dir():  # somebody made room
                return None
            raise
        with suppress(FileNotFoundError):  # somebody made room; what was taken is whole
            os.utime(place / ENTRY)  # when it was last of use
        return entry

    def put(self, address: str, make: Callable[[Path], Entry]) -> None:
        """Make an entry and put it in its place, instead of a damaged one that may be there.

        The caller is ``alone`` with it.

        Args:
            address: The entry.
            make: Writes ``targets.arrow`` into the folder it is given and says what is known about it.
        """
        aside, place = self._clear(address), self.place_of(address)
        aside.mkdir(parents=True)
        write_entry(aside, make(aside))
        sync_tree(aside)
        self.remove(address)
        place.parent.mkdir(exist_ok=True)
        aside.rename(place)
        sync_folder(place.parent)

    def remove(self, address: str) -> None:
        """Remove an entry: first out of its place, so that a crash leaves none that is damaged."""
        place = self.place_of(address)
        if place.is_dir():
            gone = self.folder / ASIDE / f"{address}.removed"
            shutil.rmtree(gone, ignore_errors=True)
            gone.parent.mkdir(exist_ok=True)
            place.rename(gone)
            shutil.rmtree(gone)

    def forget(self, address: str) -> None:
        """Remove an entry and its lock, which the caller holds; whoever waits makes a new one."""
        self.remove(address)
        (self.folder / LOCKS / address).unlink()

    def _clear(self, address: str) -> Path:
        """Remove what a killed run left of making this entry; return where it is made."""
        aside = self.folder / ASIDE / address
        shutil.rmtree(aside, ignore_errors=True)
        return aside
