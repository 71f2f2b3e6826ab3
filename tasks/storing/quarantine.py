"""Move wrong objects out of the remote's way, so that DVC can mend it.

DVC uploads only what it believes to be absent, and it never looks at bytes: an object that exists
is taken for good, and so is everything that an existing listing names. So a wrong object is moved
below ``quarantine/``, and with it every listing that names it or names a missing object; the next
``dvc push`` from a checkout with good bytes then uploads all of them. Nothing is deleted.
"""

from collections.abc import Iterable

from tasks.storing.report import Fault
from tasks.storing.store import Store

FOLDER = "quarantine"
"""Where wrong objects go, below the remote's root."""

_MENDED_BY_PUSH = {"corrupted", "forged", "missing"}


def quarantine(store: Store, faults: Iterable[Fault]) -> None:
    """Move what is wrong aside and note in each fault what was moved.

    The new name ends with the digest that was found, so two kinds of damage do not overwrite each
    other. Listings go first: cut short, the remote is incomplete in a way that DVC sees.

    Raises:
        StorageError: The store does not answer.
        OSError: It refuses to move an object.
    """
    moved: set[str] = set()
    for fault in faults:
        if fault.kind not in _MENDED_BY_PUSH:
            continue
        for key in fault.wanted.listings:
            if key not in moved and _exists(store, key):
                fault.quarantined.append(_aside(store, key, f"{FOLDER}/{key}"))
                moved.add(key)
        if fault.found:
            key = fault.wanted.key
            name = f"{FOLDER}/{key}.{fault.found.sha256 or fault.found.md5}"
            if key not in moved and _exists(store, key):
                fault.quarantined.append(_aside(store, key, name))
                moved.add(key)


def _aside(store: Store, key: str, to: str) -> str:
    store.move(key, to)
    return to


def _exists(store: Store, key: str) -> bool:
    try:
        store.size(key)
    except FileNotFoundError:
        return False
    return True
