"""Puts off the date until which a copy's objects are locked, for everything that a snapshot needs.

Invariant: the date told is the earliest of all of them: until then nobody can take the snapshot away there. A lock that
could not be extended does not undo a commit; it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.locating import objects_of
from opskit.repository.manifest import Snapshot
from opskit.stores.base import lockable


def extend_lock(copy: Copy, snapshot: Snapshot, get: Callable[[str], bytes], now: datetime) -> datetime | None:
    """Lock what a snapshot needs at a copy, as long as the config says; None where nothing is locked.

    Raises StoreError.
    """
    if lockable(copy.store) is None:
        return None
    needed = dict.fromkeys([*names.FIXED, *objects_of(snapshot.manifest, get, copy.key_object), snapshot.name])
    return extend_lock_of(copy, needed, now)


def extend_lock_of(copy: Copy, wanted: Iterable[str], now: datetime) -> datetime | None:
    """Lock objects of a copy, as far as they are there; None where nothing is locked. Raises StoreError."""
    store = lockable(copy.store)
    if store is None or store.lock_days is None:
        return None
    present = [name for name in wanted if name in copy.objects]
    return store.extend_lock(present, now + timedelta(days=store.lock_days))
