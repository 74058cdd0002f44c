"""Services that know folders, as WebDAV does: what is asked of each, and the walk over them.

Folders are walked one by one: the libraries' own walks leave out what they failed to list. One that went away since it
was seen holds nothing; the root that is absent is an error. A folder is never removed, read or taken for an object.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from opskit.stores.base import ObjectInfo, is_name
from opskit.stores.url.service import RootMissing, Service, expect_size

_DEEPEST = 5


class Entry(NamedTuple):
    """One entry of a folder: its last name, whether it is a folder, bytes, epoch seconds."""

    leaf: str
    is_folder: bool
    size: int
    modified: float


class Folders(Service):
    """A service over entries of folders."""

    @abstractmethod
    def entries(self, path: str) -> list[Entry]:
        """What the folder `path` ("" for the root) holds; raises FileNotFoundError."""

    @abstractmethod
    def look(self, path: str) -> Entry:
        """What has that path; raises FileNotFoundError."""

    @abstractmethod
    def range(self, path: str, start: int, end: int) -> bytes:
        """The bytes of an object from `start` up to `end`; raises FileNotFoundError."""

    @abstractmethod
    def unlink(self, path: str) -> None:
        """Remove what has that path; raises FileNotFoundError."""

    def objects(self, prefix: str, at_once: int) -> Iterable[ObjectInfo]:
        """See Service."""
        if prefix:
            try:
                there = self.look(prefix)
            except FileNotFoundError:
                self._page("")  # nothing below a root that is there
                return []
            if not there.is_folder:
                return [ObjectInfo(prefix, there.size, there.modified)]
        return self._walked(prefix, max(4, at_once))

    def read(self, path: str, offset: int, length: int | None, check: Callable[[int], None]) -> bytes:
        """See Service."""
        found = self._object(path)
        if length is None:
            check(found.size)
        end = found.size if length is None else min(found.size, offset + length)
        return expect_size(self.range(path, offset, end), end - offset) if end > offset else b""

    def remove(self, path: str) -> None:
        """See Service."""
        self._object(path)
        self.unlink(path)

    def _object(self, path: str) -> Entry:
        found = self.look(path)
        if found.is_folder:
            raise FileNotFoundError(path)
        return found

    def _walked(self, top: str, at_once: int) -> Iterable[ObjectInfo]:
        found: dict[str, ObjectInfo] = {}
        folders = [top]
        with ThreadPoolExecutor(at_once, thread_name_prefix="list") as threads:
            while folders:
                pages = list(threads.map(self._page, folders))
                above, folders = folders, []
                for folder, page in zip(above, pages, strict=True):
                    for entry in page:
                        name = f"{folder}/{entry.leaf}" if folder else entry.leaf
                        if not is_name(name):
                            continue
                        if not entry.is_folder:
                            found[name] = ObjectInfo(name, entry.size, entry.modified)
                        elif name.count("/") + 1 < _DEEPEST:
                            folders.append(name)
        return found.values()

    def _page(self, folder: str) -> Sequence[Entry]:
        try:
            return self.entries(folder)
        except FileNotFoundError as error:
            if not folder:
                raise RootMissing(str(error)) from error
            return []  # removed since it was seen
