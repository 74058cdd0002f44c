"""Gives a copy its own two objects back: `opskit.json`, which makes it a repository, and `copy.json`, its copy id.

Invariants: needs no key. Only what says nothing, or is absent beside the other, is replaced; wrong bytes go to
quarantine first. A folder with neither of them is no copy, and one that names another repository is not ours: both are
left to `init` and to people. A copy gets the id back under which this host knows it, so that a rollback behind what it
acknowledged still shows.
"""

from __future__ import annotations

from datetime import datetime

from opskit import encoding
from opskit.errors import Damaged, ObjectNotFound
from opskit.repository import names
from opskit.repository.copy import Copy, named
from opskit.repository.identity import id_in
from opskit.stores.base import Store


def unidentified(store: Store, about: bytes) -> list[str]:
    """Which of the two say nothing, or are absent beside the other. Raises StoreError."""
    repository, copy = _said(store, names.REPOSITORY, "id"), _said(store, names.COPY, "copy")
    if (repository is None and copy is None) or repository not in (None, "", id_in(about)):
        return []
    return [name for name, said in ((names.REPOSITORY, repository), (names.COPY, copy)) if not said]


def reidentify(destination: str, store: Store, about: bytes, copy_id: str, now: datetime) -> list[str]:
    """Mend those; returns their names.

    `about` are the bytes of `opskit.json`, the same at all copies, `copy_id` is what the copy is known by. Raises
    StoreError.
    """
    wanted, right = unidentified(store, about), {names.REPOSITORY: about, names.COPY: named(copy_id, now)}
    for name in wanted:
        Copy(destination, store, "", "").replace(name, right[name])
    return wanted


def _said(store: Store, name: str, key: str) -> str | None:
    """What an object says of itself; "" where its bytes say nothing, None where it is absent. Raises StoreError."""
    try:
        value = encoding.decode_object(store.get(name), what=name).get(key)
    except ObjectNotFound:
        return None
    except Damaged:
        return ""
    return value if isinstance(value, str) else ""
