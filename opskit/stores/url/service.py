"""What a service can do, in the words of the store: the part that differs between kinds.

Paths begin at the store's root. Failures leave as the standard errors FileNotFoundError, FileExistsError and
PermissionError, as TimeoutError where nothing came for too long, or as `Refused` with the status of HTTP; the rest,
OSError too, counts as a connection that broke.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple

from opskit.stores.base import ObjectInfo, Swept, looks_before

CONNECT_TIMEOUT = 20.0
"""Seconds in which a connection has to be made; long enough for four lost packets."""


class Refused(Exception):
    """The service answered, and said no: with this status of HTTP."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {' '.join(said.split())[:200]}")
        self.status = status


class RootMissing(FileNotFoundError):
    """What holds all objects is not there."""


class Short(Exception):
    """Fewer or more bytes came than the service had said."""


class LibraryMissing(Exception):
    """The library of this kind is not installed; `extra` brings `package`."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package)
        self.package, self.extra = package, extra


class Honours(NamedTuple):
    """What holds at an endpoint.

    `conditional`: a put can be kept from replacing. `checksums`: bytes that do not fit their MD5 are refused.
    """

    conditional: bool
    checksums: bool

    def shortcomings(self) -> list[str]:
        """What is missing, and what that means; a sentence each."""
        found = []
        if not self.conditional:
            found.append(f"the endpoint ignores ifGenerationMatch: {looks_before('writes')}")
        if not self.checksums:
            found.append(
                "the endpoint ignores MD5 checksums: what changes on its way there is found by opskit verify alone"
            )
        return found


class Service(ABC):
    """One service at one place. All methods may be called from several threads at once."""

    root = "folder"
    """What holds all objects, and what to do where it is absent."""
    root_hint = "correct the address, or make the repository there: opskit init --destination NAME=ADDRESS"
    was_heard = False
    """Whether anything ever came from the service. Until then a silence is no mishap that passes: it is not there."""

    @abstractmethod
    def objects(self, prefix: str, at_once: int) -> Iterable[ObjectInfo]:
        """All objects whose first parts equal `prefix` ("" for all), in any order; raises RootMissing.

        Names that are none of a store's may be among them. `at_once` requests may be under way.
        """

    @abstractmethod
    def read(self, path: str, offset: int, length: int | None, check: Callable[[int], None]) -> bytes:
        """The bytes of an object from `offset` on, at most `length`, fewer only at its end; raises FileNotFoundError.

        `check` is told the size of an object that is asked for to its end, and what it raises is raised.
        """

    @abstractmethod
    def create(self, path: str, data: bytes, *, may_replace: bool) -> None:
        """Store an object in one step; raises FileExistsError unless it may replace."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove an object; raises FileNotFoundError."""

    def sweep(self, now: float, older_than: float, *, dry_run: bool) -> Swept:
        """What killed puts left beside the objects, removed unless `dry_run`; see Sweepable."""
        return Swept()

    def prepare(self) -> None:
        """Make what may be made before the first object."""
        return

    def probe(self) -> Honours | None:
        """What the endpoint honours, found out on throwaway objects; None: there is nothing to find out."""
        return None

    def shortcomings(self) -> list[str]:
        """What the service cannot promise, a sentence each."""
        return []


def expect_size(data: bytes, size: int) -> bytes:
    """The bytes, if they are so many; raises Short."""
    if len(data) != size:
        raise Short(f"expected {size} bytes, got {len(data)}")
    return data
