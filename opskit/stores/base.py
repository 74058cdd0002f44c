"""The Store seam: write-once bytes under names, at one place.

Contract (checked by tests/contracts over every implementation):

- A name is 1-5 parts joined by "/", each of [A-Za-z0-9._-], none starting with "."; at most 255
  characters a part. That works on vfat and exFAT sticks and in S3. Anything else is a ValueError.
- `put` is atomic and durable when it returns, and never replaces: a reader sees all bytes or no
  object, also after a crash. A name that is taken raises ObjectExists and changes nothing. Only with
  `replace` it takes the place of what is there: then a reader sees the old bytes or the new, at any time.
- `get` returns exactly the bytes of the object (or of the range), else raises ObjectNotFound. A whole object
  larger than LARGEST_OBJECT is not read, but raises ObjectUnreadable: it must not fill the memory.
- `list` yields every object below a prefix of whole parts, sorted by name, each once; it hides
  unfinished uploads. A failure to list is an exception, never a short list.
- `delete` removes one object; an absent one raises ObjectNotFound.
- Errors of the medium are translated where bytes are consumed, to StoreError and its kinds.
- All methods may be called from several threads at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple, Protocol, runtime_checkable

from opskit.errors import ObjectUnreadable

Buffer = bytes | bytearray | memoryview

LARGEST_OBJECT = 1 << 30
"""Bytes; opskit makes none nearly as large."""

PROBE = b"opskit: may this be replaced?\n", b"opskit: it was.\n"
"""Bytes of the throwaway objects by which is found out what an endpoint honours: the first ones, and others."""

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


class ObjectInfo(NamedTuple):
    """One listed object: its name, size in bytes, and the store's own modification time (epoch seconds)."""

    name: str
    size: int
    modified: float


class Store(Protocol):
    """Write-once storage of named byte strings; see the module docstring for the contract."""

    location: str
    """What a person would type to reach this place; for messages."""

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Store `data` under `name`, atomically and durably; raises ObjectExists (unless to replace), StoreError."""

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, or `length` of them from `offset`; raises ObjectNotFound, StoreError."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose first parts equal `prefix` ("" for all), sorted by name; raises StoreError."""

    def delete(self, name: str) -> None:
        """Remove `name`; raises ObjectNotFound, StoreError."""


@runtime_checkable
class Streaming(Protocol):
    """What a store may offer besides: objects that pass through in pieces, so that nobody holds a whole one.

    All that is said of `put` and `get` holds. A wrapper that does not know of it hides it, and is asked to put and get.
    """

    def put_pieces(self, name: str, pieces: Iterable[Buffer]) -> int:
        """Store the bytes that `pieces` give, one after another, under `name`; returns how many there were.

        Raises ObjectExists, before the first piece if it can, StoreError, and what `pieces` raise: then nothing was
        stored.
        """

    def pieces(self, name: str) -> Generator[Buffer, None, None]:
        """All bytes of `name`, in pieces of which each is valid until the next is asked for; close it when done.

        Raises ObjectNotFound, StoreError, when the first piece is asked for or later.
        """


@runtime_checkable
class Filling(Protocol):
    """What a store may offer besides: objects that are read straight into memory that is there.

    A wrapper that does not know of it hides it, and is asked to get.
    """

    def get_into(self, name: str, room: Callable[[int], memoryview]) -> memoryview:
        """All bytes of `name`, in what `room` gives for so many; raises ObjectNotFound, StoreError."""


def seen_at(store: Store) -> str:
    """What a store behind all wrappers saw of the place where it is (`seen_at`): equal texts are one place.

    "" where it sees nothing. Raises StoreError.
    """
    while (inner := getattr(store, "inner", None)) is not None:
        store = inner
    found: Any = getattr(store, "seen_at", None)
    return str(found()) if callable(found) else ""


class Lockable(Protocol):
    """A store that can keep objects from being deleted until a date, whoever asks."""

    lock_days: int | None
    """For how many days the config wants objects locked; None: not at all."""

    def extend_lock(self, names: Iterable[str], until: datetime) -> datetime | None:
        """Lock objects at least until then; returns the earliest date that holds for all of them. Raises StoreError."""


class Swept(NamedTuple):
    """Files that killed puts left, and the bytes they take."""

    files: int = 0
    total_bytes: int = 0


class Sweepable(Protocol):
    """A store whose puts are files under unfinished names first, which stay there when a put is killed."""

    def sweep(self, *, now: float, older_than: float, dry_run: bool = False) -> Swept:
        """Remove such files, or with `dry_run` only count them; raises StoreError.

        `now` is epoch seconds by the store's clock. What was written to less than `older_than` seconds ago stays:
        another run, or another host, may be about to finish it.
        """


def sweepable(store: Store) -> Sweepable | None:
    """What sweeps the store behind all wrappers, if it can be swept: the outermost that knows of sweeping."""
    this: Any = store
    inner: Store | None = getattr(store, "inner", None)
    behind = None if inner is None else sweepable(inner)
    is_able = callable(getattr(this, "sweep", None)) and (inner is None or behind is not None)
    return this if is_able else behind


def lockable(store: Store) -> Lockable | None:
    """The store behind all wrappers, if it locks objects and is to do so."""
    while (inner := getattr(store, "inner", None)) is not None:
        store = inner
    found: Any = store
    return found if getattr(found, "lock_days", None) else None


def checksum_of(store: Store) -> Callable[[str], str | None] | None:
    """What a store behind all wrappers may offer besides (`checksum_of`); None where it keeps no checksums.

    It is told an object's name, and gives the lower-case hex SHA-256 that the store keeps of the whole object, None
    where it keeps none; nothing is read. Raises ObjectNotFound, StoreError.
    """
    while (inner := getattr(store, "inner", None)) is not None:
        store = inner
    found: Any = getattr(store, "checksum_of", None)
    return found if callable(found) else None


def at_once(store: Store) -> int:
    """How many requests at once a store gains from: its `at_once`, behind all wrappers; of most it is one.

    A medium is no faster for being asked twice; of an endpoint far away, each answer takes its time.
    """
    while (inner := getattr(store, "inner", None)) is not None:
        store = inner
    return int(getattr(store, "at_once", 1))


def is_far(store: Store) -> bool:
    """Whether a store is behind a line, whatever wraps it: those say how many requests at once they are to get."""
    while (inner := getattr(store, "inner", None)) is not None:
        store = inner
    return hasattr(store, "at_once")


def looks_before(step: str) -> str:
    """How a put replaces nothing where the place itself cannot promise that: for sentences that tell people."""
    return f"opskit looks before it {step}, which two hosts can upset"


def check_name(name: str) -> None:
    """Refuse a name that some medium could not hold or that could leave the store (ValueError)."""
    if not is_name(name):
        raise ValueError(f"not an object name: {name!r}")


def is_name(name: str) -> bool:
    """Whether every medium can hold an object of that name, and none lets it leave the store."""
    parts = name.split("/")
    return 1 <= len(parts) <= 5 and all(_PART.fullmatch(part) for part in parts)


def check_size(location: str, name: str, size: int) -> None:
    """Refuse to read an object of more than LARGEST_OBJECT bytes (ObjectUnreadable)."""
    if size > LARGEST_OBJECT:
        raise ObjectUnreadable(
            f"{location}: {name} has {size:,} bytes, expected at most {LARGEST_OBJECT:,}",
            hint="opskit makes none nearly as large: the file system is damaged, or somebody else wrote there",
        )
