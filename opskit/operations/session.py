"""What every operation on a repository starts from: opened copies, the cache, heads and live packs.

Invariants:
- A destination that cannot be opened is remembered with its reason and never silently left out.
- All copies are of one repository; another one at a destination is an error of that destination.
- A pack is live when a listing taken now shows it and its key object at some reachable copy. Index
  objects the cache lacks are read first, and believed only when a signer of this repository made them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from opskit.errors import CacheError, Damaged, Forged, NoKey, OpskitError, StoreError
from opskit.log import logger
from opskit.operations.torn import drop_torn
from opskit.repository import index as indexes
from opskit.repository import lasttree, names
from opskit.repository.cache import FOREIGN, Cache, PackRow, open_or_replace, remove
from opskit.repository.copy import Copy, get_from, open_copy
from opskit.repository.evidence import load_evidence
from opskit.repository.heads import GoneBack, Heads, gone_back
from opskit.repository.identity import Identity
from opskit.repository.locating import is_usable
from opskit.repository.marks import Marks, load_marks
from opskit.repository.threads import end
from opskit.stores.base import Store, is_far

log = logger(__name__)

LISTING_IS_GOOD_FOR = 3600.0
"""Seconds: far below the shortest grace (24 h), so that nothing is deleted between a listing and a commit."""


@dataclass(frozen=True, slots=True)
class Host:
    """This host's side of a repository: label, identity, folder for state, clocks.

    `boottime` gives seconds of a clock that goes on while the machine sleeps.
    """

    label: str
    identity: Identity
    state: Path
    repository: str
    now: Callable[[], datetime]
    boottime: Callable[[], float]


@dataclass(slots=True)
class Session:
    """Copies opened for one command. `absent` tells why a destination is not among `copies`."""

    host: Host
    copies: list[Copy]
    absent: dict[str, OpskitError]
    cache: Cache
    heads: Heads
    live: dict[int, PackRow] = field(default_factory=dict)
    retired: dict[int, PackRow] = field(default_factory=dict)
    """Packs that are there and count as absent for the source that is backed up now (module `retiring`)."""
    unindexed: list[int] = field(default_factory=list)
    rejected: list[tuple[str, str, OpskitError]] = field(default_factory=list)
    marks: Marks = field(default_factory=Marks)
    listed: float = 0.0
    """When the copies were listed, by the host's `boottime`."""

    def close(self) -> None:
        """Close the cache."""
        with contextlib.suppress(CacheError):
            self.cache.close()

    def working(self) -> list[Copy]:
        """Copies that have not failed."""
        return [copy for copy in self.copies if copy.failed is None]

    def is_old(self) -> bool:
        """Whether so much time has passed since the listing that a prune elsewhere may be about to delete."""
        return self.host.boottime() - self.listed > LISTING_IS_GOOD_FOR

    def refresh(self) -> None:
        """List the working copies and read the marks anew; what is gone or condemned by now is live no more."""
        self.listed = self.host.boottime()
        for copy in self.working():
            try:
                copy.refresh()
            except StoreError as error:
                copy.failed = error
        _drop_torn(self)
        _load_marks(self)
        self.live.clear()
        self.retired.clear()
        self.unindexed.clear()
        _find_live(self)

    def present(self) -> set[str]:
        """The names that a new snapshot may refer to: listed at some copy, and not condemned."""
        return {name for copy in self.copies for name in copy.objects} - self.marks.condemned_by().keys()

    def straggling_evidence(self) -> list[str]:
        """Believed evidence that some working copy lacks; nothing is read where all have the same."""
        copies, host = self.working(), self.host
        shown = [{name for name in copy.objects if name.startswith("evidence/")} for copy in copies]
        if all(names == shown[0] for names in shown):
            return []
        ledger = load_evidence(
            copies, host.identity.verify,
            signers=host.identity.signers, repository=host.repository, cache=self.cache,
        )  # fmt: skip
        return [each.name for each in ledger.kept]

    def get(self, name: str) -> bytes:
        """An object from the first copy that has it intact; raises the last failure."""
        return get_from(self.copies, name)

    def gone_back(self) -> list[GoneBack]:
        """Copies that lack what they acknowledged; what is torn or was forgotten is not meant."""
        torn = {(destination, name) for destination, name, _ in self.rejected}
        return gone_back(self.copies, self.heads, forgotten=self.marks.forgotten(), torn=torn)

    def last_tree(self, source: str) -> Path:
        """Where the last tree of a source is kept."""
        return lasttree.place(self.host.state, self.host.repository, source)


def cache_file(host: Host) -> Path:
    """Where the cache lies."""
    return host.state / "cache" / f"{host.repository}.sqlite"


def remove_cache(host: Host) -> None:
    """Throw the cache away; the next session rebuilds it from the copies."""
    remove(cache_file(host))


def open_copies(stores: Mapping[str, Store], repository: str | None) -> tuple[list[Copy], dict[str, OpskitError]]:
    """Open every destination; returns copies and the reasons of those that could not be opened, in the order given.

    Side by side where an endpoint is among several: one that hangs does not keep the others waiting.
    """
    copies: list[Copy] = []
    absent: dict[str, OpskitError] = {}
    for (destination, store), copy in zip(stores.items(), _opened(stores), strict=True):
        if isinstance(copy, OpskitError):
            absent[destination] = copy
            continue
        expected = repository or (copies[0].repository if copies else copy.repository)
        if copy.repository != expected:
            absent[destination] = Damaged(
                f"{destination}: expected repository {expected}, found {copy.repository} at {store.location}",
                hint="is this the right disk or folder?",
            )
            continue
        copies.append(copy)
    return copies, absent


def _opened(stores: Mapping[str, Store]) -> list[Copy | OpskitError]:
    """What is at each store, or why it cannot be opened, in their order."""
    if len(stores) < 2 or not any(map(is_far, stores.values())):
        return [_open(*each) for each in stores.items()]
    threads = ThreadPoolExecutor(len(stores), thread_name_prefix="open")
    tasks = [threads.submit(_open, *each) for each in stores.items()]
    try:
        opened = [task.result() for task in tasks]
    except BaseException as error:
        end(threads, tasks, error)
        raise
    end(threads, tasks, None)
    return opened


def _open(destination: str, store: Store) -> Copy | OpskitError:
    try:
        return open_copy(destination, store)
    except OpskitError as error:
        return error


def open_session(host: Host, stores: Mapping[str, Store]) -> Session:
    """Open what can be opened; raises the first destination's error when that is none."""
    begun = host.boottime()
    copies, absent = open_copies(stores, host.repository)
    if not copies:
        raise next(iter(absent.values()))
    cache = open_or_replace(cache_file(host), host.repository)
    heads = Heads(host.state / "heads" / f"{host.repository}.json")
    session = Session(host, copies, absent, cache, heads, listed=begun)
    try:
        _drop_torn(session)
        _load_marks(session)
        _load_indexes(session)
        _find_live(session)
    except BaseException:
        session.close()
        raise
    for copy in copies:
        log.debug("copy opened", destination=copy.destination, copy=copy.id, objects=len(copy.objects))
    for destination, reason in absent.items():
        log.info("copy absent", destination=destination, reason=str(reason))
    log.debug("session opened", live_packs=len(session.live), unindexed_packs=len(session.unindexed))
    return session


def _drop_torn(session: Session) -> None:
    cache = session.cache
    written = cache.sizes() | {names.pack(row.name): row.stored for row in cache.packs()}
    session.rejected.extend(each for each in drop_torn(session.copies, written) if each not in session.rejected)


def _load_marks(session: Session) -> None:
    host = session.host
    session.marks = load_marks(
        session.copies, host.identity.verify,
        maintainers=host.identity.maintainers, repository=host.repository,
        agreed=host.identity.agreed, cache=session.cache, torn=session.rejected,
    )  # fmt: skip
    session.rejected.extend(each for each in session.marks.rejected if each not in session.rejected)


def _load_indexes(session: Session) -> None:
    """Take in index objects the cache does not know; one that cannot be believed leaves its packs unknown."""
    known, host = session.cache.index_names(), session.host
    listed = {name for copy in session.copies for name in copy.objects if name.startswith("index/")}
    for name in sorted(listed):
        digest = names.digest_in(name)
        if digest is None or digest in known:
            continue
        try:
            opened = host.identity.keyring.decrypt(session.get(name))
            if opened.signer not in host.identity.signers:
                raise Forged(f"index object signed by {opened.signer or 'nobody'}, not by a signer of this repository")
            session.cache.load_index(digest, indexes.decode(opened.payload, repository=host.repository))
        except NoKey:
            session.cache.add_index(digest, 0, [FOREIGN])  # another host's: its chunks are not ours to share
        except (Forged, StoreError) as error:
            session.rejected.append(("", name, error))


def _find_live(session: Session) -> None:
    there, succession = session.present(), session.marks.succession
    runs, described = session.cache.runs(), session.cache.indexes()
    for row in session.cache.packs():
        run = runs.get(row.run)
        if run is None or names.pack(row.name) not in there or succession.name(run.key, there) not in there:
            continue
        if not any(is_usable(name, runs.get(writer), there, succession) for name, writer in described.get(row.no, ())):
            if session.cache.unindexed_ids(row.no) is None:
                continue  # nothing tells what is in it: its chunks are stored again
            session.unindexed.append(row.no)
        session.live[row.no] = row
