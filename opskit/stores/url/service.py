"""What a service can do, in the words of the store: the part that differs between kinds.

Paths begin at the store's root. Failures leave as the standard errors FileNotFoundError, FileExistsError and
PermissionError, or as `Refused` with the status of HTTP; the rest, OSError too, counts as a connection that broke.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple


class Entry(NamedTuple):
    """One entry of a folder: its last name, whether it is a folder, bytes, epoch seconds."""

    leaf: str
    is_folder: bool
    size: int
    modified: float


class Refused(Exception):
    """The service answered, and said no: with this status of HTTP."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {' '.join(said.split())[:200]}")
        self.status = status


class LibraryMissing(Exception):
    """The library of this kind is not installed; `extra` brings `package`."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package)
        self.package, self.extra = package, extra


class Service(ABC):
    """One service at one place. All methods may be called from several threads at once."""

    @abstractmethod
    def entries(self, path: str) -> list[Entry]:
        """What the folder `path` ("" for the root) holds; raises FileNotFoundError."""

    @abstractmethod
    def look(self, path: str) -> Entry:
        """What has that path; raises FileNotFoundError."""

    @abstractmethod
    def read(self, path: str, start: int, end: int) -> bytes:
        """The bytes of an object from `start` up to `end`; raises FileNotFoundError."""

    @abstractmethod
    def create(self, path: str, data: bytes, *, may_replace: bool) -> None:
        """Store an object in one step; raises FileExistsError unless it may replace."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove an object; raises FileNotFoundError."""

    def prepare(self) -> None:
        """Make what may be made before the first object."""
        return

    def shortcomings(self) -> list[str]:
        """What the service cannot promise, a sentence each."""
        return []
