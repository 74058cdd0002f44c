"""Looks at every destination of one host and gathers what the rules judge.

Invariants: nothing is changed at any copy. What is read are manifests, marks, evidence, the two fixed objects, and
objects on whose size copies disagree: one of them is torn, and the bytes tell which. Where the config asks for object
locks the endpoint is asked about each newest manifest and the pack with its root: what ignores locks must not be shown
as locked. State of this host that cannot be read or written costs what it would have told, and is noted; it never hides
the copies. A destination that cannot be opened is part of the answer, also when it is the only one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, cast

from opskit.errors import CacheError, OpskitError
from opskit.operations import verified as memory
from opskit.operations.session import Host, cache_file, open_copies
from opskit.operations.status.rules import CLOCKS_APART
from opskit.operations.status.states import Seen
from opskit.operations.torn import drop_torn
from opskit.operations.verified import Verified
from opskit.repository import names
from opskit.repository.cache import Cache, open_or_replace
from opskit.repository.copy import Copy
from opskit.repository.evidence import Ledger, load_evidence
from opskit.repository.heads import Heads
from opskit.repository.history import History, load_history
from opskit.repository.marks import Marks, load_marks
from opskit.stores.base import Store, lockable, seen_at


def look(host: Host, stores: Mapping[str, Store], sources: Collection[str], maintainers: Sequence[str] = ()) -> Seen:
    """Open what can be opened and load what it shows; `maintainers` are those whose marks count.

    Locks are asked for what the newest snapshots of these sources need: nobody puts off those of others any more.
    """
    notes: list[str] = []
    heads = _heads(host, notes)  # before the listings: what a backup acknowledges meanwhile is not in them
    copies, absent = open_copies(stores, host.repository)
    history, marks, ledger = _load(host, copies, maintainers, notes)
    torn = frozenset((destination, name) for destination, name, _ in drop_torn(copies))
    seen = Seen(
        copies,
        absent,
        history,
        heads,
        _verified(host, notes),
        marks.forgotten(),
        marks.forgotten_numbers(),
        torn,
        notes,
    )
    seen.drills = [each for each in ledger.drills() if each.ended <= host.now() + CLOCKS_APART]
    seen.rejected_evidence = ledger.rejected
    seen.locked = {copy.destination: until for copy in copies if (until := _locked_until(host, seen, copy, sources))}
    seen.places = {copy.destination: place for copy in copies if (place := _seen_at(copy, notes))}
    if seen.verified is not None:
        try:
            seen.verified.remember_places(copies)
        except OpskitError as error:
            notes.append(str(error))
        for (said_by, copy_id), told in ledger.verifications(host.now() + CLOCKS_APART).items():
            if said_by != host.label or seen.verified.get(copy_id) is None:  # our own words we remember better
                seen.verified.learn(copy_id, told)
    return seen


_Loaded = tuple[History, Marks, Ledger]


def _load(host: Host, copies: Sequence[Copy], maintainers: Sequence[str], notes: list[str]) -> _Loaded:
    """Manifests, marks and evidence, by way of the cache where it can be had: a backup may hold it."""
    cache: Cache | None = None
    try:
        cache = open_or_replace(cache_file(host), host.repository)
        return _read(host, copies, maintainers, cache)
    except (OSError, CacheError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        notes.append(f"{host.state} cannot be written ({reason}): reading goes on without the cache, only slower")
    finally:
        if cache is not None:
            with contextlib.suppress(CacheError):
                cache.close()
    return _read(host, copies, maintainers, None)


def _read(host: Host, copies: Sequence[Copy], maintainers: Sequence[str], cache: Cache | None) -> _Loaded:
    identity, repository = host.identity, host.repository
    verify, signers = identity.verify, identity.signers
    return (
        load_history(copies, verify, signers=signers, repository=repository, cache=cache),
        load_marks(copies, verify, maintainers=maintainers, repository=repository, agreed=identity.agreed, cache=cache),
        load_evidence(copies, verify, signers=signers, repository=repository, cache=cache),
    )


class _TellsLocks(Protocol):
    """A store that can be asked until when objects are locked."""

    def locked_until(self, names: Iterable[str]) -> datetime | None:
        """The earliest date; None where one is not locked. Raises StoreError."""


def _locked_until(host: Host, seen: Seen, copy: Copy, sources: Collection[str]) -> datetime | None:
    """The earliest date, still to come, until which this host's newest snapshots are locked at a copy."""
    store = lockable(copy.store)
    newest = {
        each.manifest.source: each
        for each in seen.history.snapshots  # in the order of their sequence, so the last one stays
        if each.manifest.host == host.label
        and each.manifest.source in sources
        and each.id not in seen.forgotten
        and copy.destination in seen.history.holders[each.name]
    }
    if store is None or not hasattr(store, "locked_until"):
        return None
    wanted = [name for each in newest.values() for name in (each.name, names.pack(each.manifest.tree_pack))]
    try:
        until = cast("_TellsLocks", store).locked_until(wanted)
    except OpskitError as error:
        seen.notes.append(f"{copy.destination}: whether it is locked cannot be seen: {error}")
        return None
    return until if until is not None and until > host.now() else None


def _seen_at(copy: Copy, notes: list[str]) -> str:
    try:
        return seen_at(copy.store)
    except OpskitError as error:
        notes.append(f"{copy.destination}: where it is cannot be seen: {error}")
        return ""


def _heads(host: Host, notes: list[str]) -> Heads | None:
    try:
        heads = Heads(host.state / "heads" / f"{host.repository}.json")
    except OSError as error:
        notes.append(f"{error.filename}: {error.strerror}: a rollback of a copy cannot be seen")
        return None
    if heads.lost:
        notes.append(heads.lost)
    return heads


def _verified(host: Host, notes: list[str]) -> Verified | None:
    try:
        verified = Verified(memory.place(host.state, host.repository))
    except OSError as error:
        notes.append(f"{error.filename}: {error.strerror}: when copies were verified is not known")
        return None
    if verified.lost:
        notes.append(verified.lost)
    return verified
