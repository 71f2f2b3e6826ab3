"""Where shards are read from: a folder of this machine, mapped, or a prefix of an S3 bucket.

The one idea: a store returns the bytes at an offset of a file, and either they are that many or the
store says by name why not. What is missing or cut short is damage; a place that does not answer is
not, and ends the run whatever the policy: an outage must not become a corpus with holes.

A store may be opened before a fork. A mapping is then shared; an S3 client belongs to the process
that made it, so each process makes its own when it first reads.
"""

import errno
import mmap
import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from tasks.errors import ParamsError, StorageError
from tasks.storing.store import Store as Remote
from tasks.storing.store import open_s3

_OPEN_FILES = 32
_TIMEOUTS_S = {"connect_timeout": 5, "read_timeout": 30}


class Damaged(Exception):
    """What was asked for is not there or is shorter; the message says what was found."""


class Store(Protocol):
    """A place with shards."""

    where: str
    """Its address, for messages."""
    readers: int
    """How many reads at once are of use."""

    def read(self, name: str, offset: int, length: int) -> Any:
        """Return that many bytes of a file, as something with the buffer interface.

        Raises:
            Damaged: No such file, or it ends before.
            StorageError: The place does not answer.
        """
        ...

    def whole(self, name: str) -> bytes:
        """Return a small file. Raises as ``read``."""
        ...

    def release(self) -> None:
        """Give memory back that only helps to read the same bytes again."""
        ...


def open_store(where: str) -> Store:
    """Open a folder or an ``s3://bucket/prefix``; nothing is read yet.

    Raises:
        ParamsError: Another kind of address.
    """
    if where.startswith("s3://"):
        return S3Store(where)
    if "://" in where or "::" in where:
        raise ParamsError(
            "a folder or s3://bucket/prefix",
            found=where,
            where="the address of shards",
            mend="Copy the shards to one of these.",
        )
    return LocalStore(Path(where))


class LocalStore:
    """A folder of this machine. Files are mapped, the last few stay open."""

    readers = 2

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._folder = folder
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()
        self._lock = Lock()

    def read(self, name: str, offset: int, length: int) -> memoryview:
        """Return a view of the mapped file."""
        mapped = self._map(name)
        # A mapped byte beyond the end of the file would end the process by a signal. The size is
        # that of the mapped file, which may have been replaced or removed under its name since.
        size = min(len(mapped), mapped.size())
        if offset + length > size:
            raise Damaged(f"a file of {size} bytes")
        return memoryview(mapped)[offset : offset + length]

    def whole(self, name: str) -> bytes:
        """Return the bytes of a file."""
        path = self._folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise Damaged("no such file") from None
        except OSError as error:
            raise _unreadable(error, str(path)) from error

    def release(self) -> None:
        """Forget the mapped pages; the system still caches them as far as it has memory to spare."""
        with self._lock:
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)

    def _map(self, name: str) -> mmap.mmap:
        with self._lock:
            if name not in self._maps:
                self._maps[name] = _map_file(self._folder / name)
            self._maps.move_to_end(name)
            if len(self._maps) > _OPEN_FILES:
                self._maps.popitem(last=False)  # unmapped when the last view of it is gone
            return self._maps[name]


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise Damaged("no such file") from None
    except ValueError:
        raise Damaged("an empty file") from None
    except OSError as error:
        raise _unreadable(error, str(path)) from error


class S3Store:
    """A prefix of a bucket. Credentials and endpoint come from the usual AWS environment."""

    readers = 8

    def __init__(self, url: str) -> None:
        self.where = url.rstrip("/")
        self._remotes: dict[int, Remote] = {}
        self._lock = Lock()

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return the bytes of one ranged request."""

        def part(remote: Remote) -> bytes:
            try:
                return remote.block(name, offset, offset + length)
            except OSError as error:
                # The range may begin behind the end, but a refused request has the same code.
                if error.errno != errno.EINVAL or (size := remote.size(name)) > offset:
                    raise
                raise Damaged(f"an object of {size} bytes") from None

        found = self._answer(name, part)
        if len(found) != length:
            raise Damaged(f"an object of {offset + len(found)} bytes")
        return found

    def whole(self, name: str) -> bytes:
        """Return the bytes of an object."""
        return self._answer(name, lambda remote: remote.read(name))

    def release(self) -> None:
        """Nothing is kept."""

    def _answer(self, name: str, request: Any) -> bytes:
        try:
            return bytes(request(self._remote()))
        except FileNotFoundError:
            raise Damaged("no such object") from None
        except OSError as error:
            raise _unreadable(error, f"{self.where}/{name}") from error

    def _remote(self) -> Remote:
        """Return this process's client: one that was inherited over a fork would hang or refuse."""
        process = os.getpid()
        with self._lock:
            if process not in self._remotes:
                self._remotes = {process: open_s3(self.where, {"config_kwargs": _TIMEOUTS_S})}
            return self._remotes[process]


def _unreadable(error: OSError, where: str) -> StorageError:
    return StorageError(
        "to be allowed to read",
        found=str(error).rstrip("."),
        where=where,
        mend="Check the address, the credentials, and the rights to read there.",
    )
