"""A store at a service of HTTP, over what its library gives (`dav`).

Invariants: a put shows all bytes or no object and never replaces, as far as the service can promise it (`shortcomings`
says what it cannot). Folders are walked one by one: the libraries' own walks leave out what they failed to list. What a
service names is judged before it counts, and what it gives has the size it said.

What it deliberately does not do: retry (`stores.wrappers.retry` does), limit bandwidth, check hashes, lock objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from opskit.errors import (
    ObjectExists,
    ObjectNotFound,
    ProgramMissing,
    StoreError,
    StoreFull,
    StoreRefused,
)
from opskit.stores.base import Buffer, ObjectInfo, check_name, check_size
from opskit.stores.url.service import Entry, LibraryMissing, Refused, Service

_DEEPEST = 5
_FULL = {413, 507}
_DENIED = {401, 403}
_BUSY = {408, 409, 423, 425, 429, 500, 502, 503, 504}


class Lost(StoreError):
    """The connection broke, or the service is overloaded: the same request may well succeed next."""


def is_passing(error: StoreError) -> bool:
    """Whether a failure here is worth another try."""
    return isinstance(error, Lost)


class UrlStore:
    """Objects at `service`; see `opskit.stores.base` for the contract. `at_once` requests are worth their while."""

    def __init__(self, service: Service, location: str, *, at_once: int = 3) -> None:
        self.location = location
        self.at_once = at_once
        self._service = service

    def create(self) -> None:
        """Make what the service lets be made before the first object. May raise StoreError."""
        with self._translated("create"):
            self._service.prepare()

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Store `data` under `name`, atomically and durably; raises ObjectExists (unless to replace), StoreError."""
        check_name(name)
        with self._translated("write", name):
            self._service.create(name, bytes(data), may_replace=replace)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, or up to `length` of them from `offset`; raises ObjectNotFound, StoreError."""
        check_name(name)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"expected an offset and a length of at least 0, got {offset} and {length}")
        with self._translated("read", name):
            found = self._object(name)
            if length is None:
                check_size(self.location, name, found.size)
            end = found.size if length is None else min(found.size, offset + length)
            if end <= offset:
                return b""
            data = self._service.read(name, offset, end)
            if len(data) != end - offset:
                raise Lost(f"{self.location}: {name}: expected {end - offset} bytes, got {len(data)}")
            return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose first parts equal `prefix` ("" for all), sorted by name; raises StoreError."""
        if prefix:
            check_name(prefix)
        return self._listed(prefix)

    def delete(self, name: str) -> None:
        """Remove `name`; raises ObjectNotFound, StoreError."""
        check_name(name)
        with self._translated("delete", name):
            self._object(name)
            self._service.remove(name)

    def shortcomings(self) -> Sequence[str]:
        """What the service cannot promise, a sentence each."""
        return self._service.shortcomings()

    def _object(self, name: str) -> Entry:
        found = self._service.look(name)
        if found.is_folder:
            raise FileNotFoundError(name)
        return found

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._translated("list", missing_is_root=True):
            found = self._walked(prefix)
        yield from sorted(found)

    def _walked(self, prefix: str) -> Sequence[ObjectInfo]:
        found: dict[str, ObjectInfo] = {}
        folders = [prefix]
        if prefix:
            try:
                there = self._service.look(prefix)
            except FileNotFoundError:
                self._service.entries("")  # nothing below a root that is there
                return []
            if not there.is_folder:
                return [ObjectInfo(prefix, there.size, there.modified)]
        with ThreadPoolExecutor(max(4, self.at_once), thread_name_prefix="list") as threads:
            while folders:
                pages = list(threads.map(self._page, folders))
                above, folders = folders, []
                for folder, page in zip(above, pages, strict=True):
                    for entry in page:
                        name = f"{folder}/{entry.leaf}" if folder else entry.leaf
                        if not _is_name(name):
                            continue
                        if not entry.is_folder:
                            found[name] = ObjectInfo(name, entry.size, entry.modified)
                        elif name.count("/") + 1 < _DEEPEST:
                            folders.append(name)
        return list(found.values())

    def _page(self, folder: str) -> Sequence[Entry]:
        try:
            return self._service.entries(folder)
        except FileNotFoundError:
            if not folder:
                raise
            return []  # removed since it was seen

    @contextmanager
    def _translated(self, verb: str, name: str = "", *, missing_is_root: bool = False) -> Iterator[None]:
        """Turn what libraries raise, which may be anything, into a StoreError."""
        cannot = f"{self.location}: cannot {verb}{' ' + name if name else ''}"
        try:
            yield
        except StoreError:
            raise
        except LibraryMissing as error:
            raise ProgramMissing(
                f"{self.location}: expected the Python package {error.package}, got none",
                hint=f"install it beside opskit: pip install 'opskit[{error.extra}]'",
            ) from None
        except FileNotFoundError as error:
            if missing_is_root or verb == "write":
                raise StoreError(
                    f"{self.location}: expected a folder, got nothing: the folder is absent",
                    hint="correct the address, or make the repository there: opskit init --destination NAME=ADDRESS",
                ) from error
            raise ObjectNotFound(
                f"{self.location}: {name}: expected an object, got nothing",
                hint="run opskit verify to see what is missing",
            ) from error
        except FileExistsError as error:
            raise ObjectExists(
                f"{self.location}: {name}: expected a free name, got an object stored earlier"
            ) from error
        except PermissionError as error:
            raise self._denied(cannot, error) from error
        except Refused as error:
            raise self._refused(cannot, error) from error
        except Exception as error:
            raise Lost(
                f"{cannot}: the connection broke: {type(error).__name__}",
                hint="check the address, the network and the service; what was stored will be reused",
            ) from error

    def _denied(self, cannot: str, error: Exception) -> StoreRefused:
        return StoreRefused(
            f"{cannot}: expected permission, got {error}",
            hint="check the credentials of this destination, and what they may do there",
        )

    def _refused(self, cannot: str, error: Refused) -> StoreError:
        if error.status in _DENIED:
            return self._denied(cannot, error)
        if error.status in _FULL:
            return StoreFull(f"{cannot}: expected space, got {error}", hint="free some space there, or raise the quota")
        kind = Lost if error.status in _BUSY else StoreError
        return kind(
            f"{cannot}: expected success, got {error}",
            hint="look at the service; a proxy in between may have answered instead of it",
        )


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except ValueError:
        return False
    return True
