"""A copy: the repository as one destination holds it.

Invariants:
- Opening reads `opskit.json` and `copy.json` and takes one complete listing; what the copy "has" is
  that listing plus what this process put there since.
- Only `create` makes a repository; it completes a half-made one, and refuses a different one.
- A copy that failed once in a run stays failed for that run: a store that lost one write must not
  receive a manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from opskit import encoding
from opskit.errors import (
    CopyUnidentified,
    Damaged,
    ObjectExists,
    ObjectNotFound,
    ObjectUnreadable,
    OpskitError,
    RepositoryNotFound,
    StoreError,
)
from opskit.repository import names
from opskit.repository.succession import Succession
from opskit.repository.threads import end
from opskit.stores.base import LARGEST_OBJECT, Buffer, Filling, Store, Streaming, at_once

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a repository or a copy is called by."""

WITHOUT_ID = "copy.json is gone: whether an older state was put back cannot be seen; opskit heal writes it anew"


@dataclass(slots=True)
class Copy:
    """One opened copy.

    `id` tells swapped disks apart, `objects` are the names it has with their sizes in bytes, `failed` says why it
    fell out. `put_bytes` counts what was really put there and not found there. Several threads may put to a copy, each
    under names of its own.
    """

    destination: str
    store: Store
    id: str
    repository: str
    objects: dict[str, int] = field(default_factory=dict)
    failed: OpskitError | None = None
    put_bytes: int = 0
    succession: Succession = field(default_factory=Succession, repr=False, compare=False)
    """Which key objects stand in for others, as the marks of all copies say; who loads marks tells it."""
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def key_object(self, hinted: str) -> str:
        """The name of the key object that counts here for a run: the hinted one (a digest), or what superseded it."""
        return self.succession.name(hinted, self.objects)

    def put(self, name: str, data: Buffer) -> None:
        """Store an object. One that is there already is as good, since names are content hashes; if its bytes
        are not what the name says, they are moved to quarantine and replaced. Raises StoreError."""
        try:
            self.store.put(name, data)
        except ObjectExists:
            self.replace(name, data)
        else:
            self._note(name, len(data))

    def take(self, name: str, giver: Copy) -> int | None:
        """Store an object of another copy, in pieces that are compared with its name on the way; returns its bytes.

        None, and nothing is stored, where that takes `get` and `put`: one of the stores knows no pieces, the name is
        taken, or the giver fails or does not have the object intact. Raises StoreError, which is this copy's own.
        """
        source, target = giver.store, self.store
        if not (isinstance(source, Streaming) and isinstance(target, Streaming)):
            return None
        if giver.objects[name] > LARGEST_OBJECT:
            return None
        try:
            with contextlib.closing(_intact(name, source)) as pieces:
                size = target.put_pieces(name, pieces)
        except (ObjectExists, _NotGiven):
            return None
        self._note(name, size)
        return size

    def replace(self, name: str, data: Buffer) -> None:
        """Make an object's bytes `data`, which the caller knows to be right. Raises StoreError.

        What lay there goes to quarantine first; the object is never absent meanwhile. Bytes that the medium does not
        give any more are gone anyway. What cannot be read for another reason stays as it is.
        """
        try:
            found: bytes | None = self.store.get(name)
            is_right = found == data
        except ObjectNotFound:
            found, is_right = None, False
        except ObjectUnreadable as error:  # right bytes that a store does not stand by have to be put again, too
            found, is_right = error.found, False
        if not is_right:
            if found is not None and found != data:
                self._keep_aside(found)
            self.store.put(name, data, replace=True)
            self._note(name, len(data))
        self.objects[name] = len(data)

    def refresh(self) -> None:
        """List the objects anew; raises StoreError."""
        self.objects = _listed(self.store)

    def _note(self, name: str, size: int) -> None:
        with self._counting:
            self.put_bytes += size
        self.objects[name] = size

    def quarantine(self, name: str) -> bool:
        """Move an object's wrong bytes to quarantine, so that the object counts as absent. Raises StoreError.

        One that cannot be read stays: perhaps it can be another day. So does one that turns out to be right: False.
        """
        try:
            found = self.store.get(name)
        except ObjectUnreadable as error:
            if error.found is None:
                raise
            found = error.found
            if names.sha256(found) == names.digest_in(name):
                self.store.put(name, found, replace=True)
        if names.sha256(found) == names.digest_in(name):
            return False
        self._keep_aside(found)
        self.store.delete(name)
        del self.objects[name]
        return True

    def _keep_aside(self, found: bytes) -> None:
        aside = names.quarantine(names.sha256(found))
        try:
            self.store.put(aside, found)
        except ObjectExists:
            if self.store.get(aside) != found:  # torn by a crash, on a medium that tears
                self.store.put(aside, found, replace=True)

    def get(self, name: str) -> bytes:
        """An object's bytes, compared with the hash in its name; raises Damaged, ObjectNotFound, StoreError."""
        self._require_sane_size(name)
        data = self.store.get(name)
        self._require_right(name, data)
        return data

    def get_into(self, name: str, room: Callable[[int], memoryview]) -> memoryview:
        """The same, in what `room` gives for so many bytes; without a copy where the store can do that."""
        if not isinstance(self.store, Filling):
            data = self.get(name)
            given = room(len(data))
            given[:] = data
            return given
        self._require_sane_size(name)
        given = self.store.get_into(name, room)
        self._require_right(name, given)
        return given

    def _require_sane_size(self, name: str) -> None:
        if self.objects.get(name, 0) > LARGEST_OBJECT:
            raise Damaged(
                f"{self.destination}: {name} has {self.objects[name]:,} bytes, expected at most {LARGEST_OBJECT:,}"
            )

    def _require_right(self, name: str, data: Buffer) -> None:
        digest = names.digest_in(name)
        if digest is not None and names.sha256(data) != digest:
            raise Damaged(
                f"{self.destination}: {name}: expected SHA-256 {digest[:16]}…, got {names.sha256(data)[:16]}…",
                hint="opskit verify lists all damage; another copy may hold the object intact",
            )


class _NotGiven(Exception):
    """An object cannot be had whole from a store in pieces."""


def _intact(name: str, store: Streaming) -> Generator[Buffer, None, None]:
    """The pieces of an object; raises _NotGiven, after the last at the latest, unless they are what its name says."""
    hashed = hashlib.sha256()
    try:
        with contextlib.closing(store.pieces(name)) as pieces:
            for piece in pieces:
                hashed.update(piece)
                yield piece
    except StoreError as error:
        raise _NotGiven from error
    if hashed.hexdigest() != names.digest_in(name):
        raise _NotGiven


def get_from(copies: Sequence[Copy], name: str) -> bytes:
    """An object from the first copy that has it intact; raises the last failure."""
    failure: OpskitError = StoreError(f"no reachable copy has {name}")
    for copy in copies:
        if name in copy.objects:
            try:
                return copy.get(name)
            except (Damaged, StoreError) as error:
                failure = error
    raise failure


def open_copy(destination: str, store: Store) -> Copy:
    """Open what is at a store; raises RepositoryNotFound, CopyUnidentified, StoreError, Damaged."""
    try:
        about, copy_id, objects = _looked(destination, store)
    except (Damaged, ObjectUnreadable) as error:
        raise _unidentified(destination, store, str(error).removeprefix(f"{store.location}: ")) from error
    if about is None and (copy_id or _are_snapshots(objects)):
        raise _unidentified(destination, store, f"{names.REPOSITORY} is gone")
    if about is None:
        raise RepositoryNotFound(
            f"{destination}: no opskit repository at {store.location}", hint="opskit init creates what is missing"
        )
    if about.get("format") != 1:
        raise Damaged(
            f"{destination}: repository format {about.get('format')!r}, this opskit reads format 1",
            hint="upgrade opskit on this host",
        )
    if not (repository := _id(about.get("id"))):
        raise _unidentified(destination, store, f"{names.REPOSITORY}: expected a repository id, got none")
    return Copy(destination, store, copy_id, repository, objects)


def _unidentified(destination: str, store: Store, why: str) -> CopyUnidentified:
    return CopyUnidentified(
        f"{destination}: {store.location}: {why}", hint=f"to write it anew: opskit heal --destination {destination}"
    )


_Fixed = dict[str, object]


def _looked(destination: str, store: Store) -> tuple[_Fixed | None, str, dict[str, int]]:
    """What opskit.json says, the copy id, and the listing: asked for side by side where each answer takes its time.

    Where there is no opskit.json the listing may be of snapshots alone.
    """
    if at_once(store) == 1:
        about = _read_fixed(store, names.REPOSITORY)
        return about, _read_copy_id(store), _listed(store, "snapshots" if about is None else "")
    threads = ThreadPoolExecutor(3, thread_name_prefix=f"open-{destination}")
    fixed = threads.submit(_read_fixed, store, names.REPOSITORY)
    copy_id, listing = threads.submit(_read_copy_id, store), threads.submit(_listed, store)
    try:
        found = fixed.result(), copy_id.result(), listing.result()
    except BaseException as error:
        end(threads, [fixed, copy_id, listing], error)
        raise
    end(threads, (), None)
    return found


def _listed(store: Store, prefix: str = "") -> dict[str, int]:
    return {info.name: info.size for info in store.list(prefix)}


def _are_snapshots(listed: Iterable[str]) -> bool:
    """Whether there is one among these names: then a repository is there, whatever else is gone."""
    return any(name.startswith("snapshots/") and names.digest_in(name) is not None for name in listed)


def _id(value: object) -> str:
    """The id that a fixed object gives, if it is one; else "", and what it gives is shown to nobody."""
    return value if isinstance(value, str) and ID.fullmatch(value) else ""


def copy_id_at(store: Store) -> str:
    """The copy id at a store; "" where nothing says it. Raises StoreError."""
    try:
        return _read_copy_id(store)
    except (Damaged, ObjectUnreadable):
        return ""


def _read_copy_id(store: Store) -> str:
    """The copy id; "" where there is no copy.json. Raises StoreError, Damaged."""
    found = _read_fixed(store, names.COPY)
    if found is not None and not _id(found.get("copy")):
        raise Damaged(f"{names.COPY}: expected a copy id, got none")
    return _id(found.get("copy")) if found is not None else ""


def identity(repository: str, now: datetime) -> bytes:
    """The bytes of a new repository's `opskit.json`: the same at every copy, whenever that is made."""
    return encoding.encode({"format": 1, "id": repository, "created": names.utc(now)})


def named(copy_id: str, now: datetime) -> bytes:
    """The bytes of a copy's `copy.json`, the one object in which copies differ."""
    return encoding.encode({"copy": copy_id, "created": names.utc(now)})


def create(store: Store, about: bytes, *, copy_id: str, kit: Mapping[str, bytes], now: datetime) -> bool:
    """Make the repository's fixed objects where they are missing; True when anything was made.

    `about` are the bytes of `opskit.json`; it comes last, so a half-made copy is not yet a repository.
    Raises Damaged when another repository is there, CopyUnidentified when snapshots are and nothing says of which.
    """
    found, repository = _read_fixed(store, names.REPOSITORY), encoding.decode_object(about, what=names.REPOSITORY)["id"]
    if found is not None and found.get("id") != repository:
        raise Damaged(
            f"{store.location} holds another repository: expected {repository}, got {found.get('id')}",
            hint="choose another folder, or use `opskit init --from` to take that repository over",
        )
    if found is None and _are_snapshots(_listed(store, "snapshots")):
        raise CopyUnidentified(
            f"{store.location} holds snapshots, and {names.REPOSITORY}, which says of which repository, is gone",
            hint="if they are of this repository, opskit heal writes it anew; else choose another folder",
        )
    made = False
    for name, data in (*kit.items(), (names.COPY, named(copy_id, now)), (names.REPOSITORY, about)):
        with contextlib.suppress(ObjectExists):
            store.put(name, data)
            made = True
    return made


def _read_fixed(store: Store, name: str) -> dict[str, object] | None:
    try:
        return encoding.decode_object(store.get(name), what=name)
    except ObjectNotFound:
        return None
