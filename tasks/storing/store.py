"""A place with objects: a folder or a prefix of an S3 bucket, read in blocks and with patience.

The one idea: an object is never held whole. It is read in ranges of 8 MiB, each retried on its own,
so memory is bounded by the number of readers and a lost connection costs one range. Retries are
here alone (botocore's are switched off): what time can heal is tried again for about 15 s, and a
store that still does not answer ends the run by name. Only this module knows fsspec. It moves
objects, but never writes or deletes one.
"""

import errno
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec

from tasks.errors import StorageError
from tasks.progress import say

BLOCK_BYTES = 8 << 20
"""Bytes of one request; a reader holds about two of them."""

_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_PASSING = {errno.EBUSY, errno.EAGAIN, errno.EIO, errno.EREMOTEIO, errno.ETIMEDOUT}

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Digests:
    """What bytes came to."""

    size: int
    """Number of bytes."""
    md5: str | None = None
    """Their MD5, which is the name of an object; None if they were not read."""
    sha256: str | None = None
    """Their SHA-256, where a manifest has one to compare with."""


class Store:
    """Objects below one root.

    Args:
        filesystem: An fsspec file system.
        root: Folder, or bucket and prefix.
        address: What a person calls it.
        outside: What the file system raises beside ``OSError``.
        passing: Those of ``outside`` that time can heal.
    """

    def __init__(
        self,
        filesystem: Any,
        root: str,
        address: str,
        *,
        outside: tuple[type[Exception], ...] = (),
        passing: tuple[type[Exception], ...] = (),
    ) -> None:
        self.address = address
        self._fs, self._root = filesystem, root.rstrip("/")
        self._outside, self._passing = outside, passing
        self._failures: tuple[type[Exception], ...] = (OSError, *outside)
        self._said, self._lock = 0, threading.Lock()

    def size(self, key: str) -> int:
        """Return an object's size in bytes.

        Raises:
            FileNotFoundError: There is no such object.
            OSError: It cannot be read.
            StorageError: The store does not answer.
        """
        path = self._path(key)
        found = self._ask(lambda: self._fs.info(path))
        if found["type"] != "file":
            raise FileNotFoundError(path)
        return int(found["size"])

    def block(self, key: str, start: int, end: int) -> bytes:
        """Return bytes ``start`` to ``end``; fewer if the object is shorter. Raises as ``size``."""
        path = self._path(key)
        found: bytes = self._ask(lambda: self._fs.cat_file(path, start=start, end=end))
        return found

    def digest(
        self,
        key: str,
        size: int,
        *,
        sha256: bool = False,
        advance: Callable[[int], None] = lambda _: None,
    ) -> Digests:
        """Read an object from beginning to end.

        Args:
            key: The object.
            size: Its size in bytes.
            sha256: Take the SHA-256 too.
            advance: Called with the number of bytes of each block.

        Raises:
            OSError, StorageError: As ``size``.
        """
        md5, trusted, done = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
        while done < size:
            block = self.block(key, done, min(done + BLOCK_BYTES, size))
            if not block:
                break
            md5.update(block)
            if sha256:
                trusted.update(block)
            done += len(block)
            advance(len(block))
        return Digests(done, md5.hexdigest(), trusted.hexdigest() if sha256 else None)

    def read(self, key: str) -> bytes:
        """Return the bytes of a small object. Raises as ``size``."""
        size = self.size(key)
        return b"".join(
            self.block(key, start, min(start + BLOCK_BYTES, size))
            for start in range(0, size, BLOCK_BYTES)
        )

    def move(self, key: str, to: str) -> None:
        """Move an object; cut short on S3, it is in both places and can be moved again."""
        source, target = self._path(key), self._path(to)
        self._ask(lambda: self._fs.mv(source, target))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        for turn in range(len(_WAITS_S) + 1):
            try:
                answer = request()
                self._said = 0
                return answer
            except self._failures as error:
                if turn == len(_WAITS_S) or not self._passes(error):
                    self._refuse(error)
                    raise
                self._tell(turn, error)
            time.sleep(_WAITS_S[turn])
        raise AssertionError("the last turn returns or raises")

    def _passes(self, error: Exception) -> bool:
        # On a disk of this machine the same codes mean that the medium is failing.
        busy = bool(self._outside) and getattr(error, "errno", None) in _PASSING
        return busy or isinstance(error, self._passing)

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, self._outside):
            raise StorageError(
                "an answer",
                found=f"{type(error).__name__}: {str(error).rstrip('.')}",
                where=self.address,
                mend="Check the address and the credentials (dvc config --list), then try again.",
            ) from error

    def _tell(self, turn: int, error: Exception) -> None:
        with self._lock:
            if turn >= self._said:  # readers wait together; one of them says so
                self._said = turn + 1
                say(f"{self.address}: {error}; trying again in {_WAITS_S[turn]:g} s")


def open_folder(root: str) -> Store:
    """Open a folder of this machine."""
    return Store(fsspec.filesystem("file", auto_mkdir=True), root, root)


def open_s3(url: str, options: dict[str, Any]) -> Store:
    """Open a prefix of a bucket.

    Args:
        url: ``s3://bucket/prefix``.
        options: Arguments of ``s3fs.S3FileSystem``: credentials, endpoint.
    """
    from aiohttp import ClientError
    from botocore import exceptions

    passing = (ClientError, exceptions.HTTPClientError, exceptions.ConnectionError)
    given = options | {"config_kwargs": {"retries": {"max_attempts": 0}} | options["config_kwargs"]}
    filesystem = fsspec.filesystem(
        "s3", use_listings_cache=False, skip_instance_cache=True, **given
    )
    root = url.removeprefix("s3://")
    outside = (ClientError, exceptions.BotoCoreError)
    return Store(filesystem, root, url, outside=outside, passing=passing)
