"""Hold objects against what they must be: first that all are there, then byte for byte.

Looking up costs one request an object, so it is done for all; reading can be limited to a sample,
which is drawn anew each time. What reads wrong is read a second time before it is called corrupted:
a fault of the way is not a fault of the object.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from tasks.progress import ByteMeter
from tasks.storing.objects import Wanted
from tasks.storing.report import Fault
from tasks.storing.store import Digests, Store

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class Checked:
    """What checking came to."""

    objects: int = 0
    """Objects that were looked up."""
    read: int = 0
    """Objects of which every byte was read."""
    bytes: int = 0
    """Bytes that were read."""
    faults: list[Fault] = field(default_factory=list)
    """Objects that are missing or wrong."""

    def add(self, other: "Checked") -> None:
        """Add what checking other objects came to."""
        self.objects += other.objects
        self.read += other.read
        self.bytes += other.bytes
        self.faults += other.faults


def check(
    store: Store, wanted: Sequence[Wanted], *, label: str, workers: int, sample: int | None = None
) -> Checked:
    """Look up every object, read all of them or a sample, and compare.

    Args:
        store: Where they are.
        wanted: What they must be.
        label: What progress is called.
        workers: Objects that are read at once; each takes about 16 MiB of memory.
        sample: How many to read; all without it.

    Raises:
        StorageError: The store does not answer.
    """
    done = Checked(objects=len(wanted))
    sizes: list[tuple[Wanted, int]] = []
    for one, size in _each(lambda one: (one, _look_up(store, one)), wanted, workers):
        if size is None:
            done.faults.append(Fault("missing", one, store.address))
        elif isinstance(size, Fault):
            done.faults.append(size)
        else:
            sizes.append((one, size))
    chosen = _drawn(sizes, sample)
    with ByteMeter(label, sum(size for _, size in chosen)) as meter:
        compare = _comparison(store, meter.advance)
        done.faults += [fault for fault in _each(compare, chosen, workers) if fault]
    done.read, done.bytes = len(chosen), meter.bytes
    return done


def _look_up(store: Store, wanted: Wanted) -> int | Fault | None:
    try:
        return store.size(wanted.key)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Fault("unreadable", wanted, store.address, reason=_reason(error))


def _comparison(
    store: Store, advance: Callable[[int], None]
) -> Callable[[tuple[Wanted, int]], Fault | None]:
    def compare(one: tuple[Wanted, int]) -> Fault | None:
        wanted, size = one
        trusted = bool(wanted.sha256)
        try:
            found = store.digest(wanted.key, size, sha256=trusted, advance=advance)
            if not _fits(wanted, found):
                found = store.digest(wanted.key, size, sha256=trusted)
        except OSError as error:
            return Fault("unreadable", wanted, store.address, reason=_reason(error))
        if _fits(wanted, found):
            return None
        return Fault(_kind(wanted, found), wanted, store.address, found)

    return compare


def _fits(wanted: Wanted, found: Digests) -> bool:
    named = wanted.md5 in (None, found.md5)
    return named and wanted.sha256 <= {found.sha256} and wanted.size in (None, found.size)


def _kind(wanted: Wanted, found: Digests) -> str:
    # The name fits and the trusted digest does not: made to collide, not damaged by chance.
    return "forged" if wanted.md5 == found.md5 and wanted.sha256 else "corrupted"


def _drawn(sizes: list[tuple[Wanted, int]], sample: int | None) -> list[tuple[Wanted, int]]:
    """Draw what is read: a sample, and whatever has a wrong size in any case."""
    if sample is None:
        return sizes
    right = [(one, size) for one, size in sizes if one.size in (None, size)]
    wrong = [(one, size) for one, size in sizes if one.size not in (None, size)]
    return wrong + random.SystemRandom().sample(right, min(sample, len(right)))


def _reason(error: OSError) -> str:
    return f"{type(error).__name__}: {error}"


def _each(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, items)
