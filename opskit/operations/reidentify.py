"""Gives a copy its own two objects back: `opskit.json`, which makes it a repository, and `copy.json`, its copy id.

Invariants: needs no private key. Nothing is written where it is not known that the copy is one of this repository: by a
manifest there that is believed or, where none can be read, by a copy id that this host knows, or by an intact
`opskit.json` where there is no manifest at all (then only `copy.json` is written). Wrong bytes go to
quarantine first. What a newer opskit wrote is left to a newer opskit. Which id a copy had is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from opskit import encoding
from opskit.errors import Damaged, ObjectNotFound, ObjectUnreadable, OpskitError, StoreError
from opskit.repository import names
from opskit.repository.believing import Verify
from opskit.repository.copy import Copy, copy_id_at, named
from opskit.repository.history import load_history
from opskit.stores.base import Store


def wrong_identity(store: Store, about: bytes) -> list[str]:
    """Which of the two do not say what they should; `about` are the bytes of `opskit.json`. Raises StoreError."""
    found = _bytes_of(store, names.REPOSITORY)
    wrong = [names.REPOSITORY] if found != about and not _is_newer(found) else []
    return wrong if copy_id_at(store) else [*wrong, names.COPY]


def is_ours(
    destination: str,
    store: Store,
    verify: Verify,
    *,
    signers: Iterable[str],
    repository: str,
    known: Collection[str],
    wrong: Collection[str],
) -> bool:
    """Whether a copy is one of this repository, of whose copies the ids in `known` are known. Raises StoreError.

    `wrong` is what `wrong_identity` says of it.
    """
    objects = {info.name: info.size for info in store.list("snapshots")}
    shown = Copy(destination, store, "", repository, objects)
    history = load_history([shown], verify, signers=signers, repository=repository)
    is_damage = all(isinstance(reason, Damaged | StoreError) for _, _, reason in history.rejected)
    is_fresh = names.REPOSITORY not in wrong and not objects
    return bool(history.snapshots) or is_fresh or (is_damage and copy_id_at(store) in known)


def reidentify(
    destination: str, store: Store, about: bytes, copy_id: str, now: datetime
) -> tuple[list[str], OpskitError | None]:
    """Mend what is wrong of the two; returns the names of those that were, and what kept another from it."""
    done: list[str] = []
    right = {names.REPOSITORY: about, names.COPY: named(copy_id, now)}
    try:
        for name in wrong_identity(store, about):
            Copy(destination, store, "", "").replace(name, right[name])
            done.append(name)
    except OpskitError as error:
        return done, error
    return done, None


def _is_newer(data: bytes | None) -> bool:
    try:
        version = encoding.decode_object(data or b"", what=names.REPOSITORY).get("format")
    except Damaged:
        return False
    return isinstance(version, int) and version > 1


def _bytes_of(store: Store, name: str) -> bytes | None:
    try:
        return store.get(name)
    except (ObjectNotFound, ObjectUnreadable):
        return None
