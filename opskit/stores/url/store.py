"""A store at a service of HTTP, over what its library gives (`azure`, `dav`, `gcs`).

Invariants: a put shows all bytes or no object and never replaces, as far as the service can promise it (`shortcomings`
says what it cannot). What a service names is judged before it counts, and what it gives has the size it said.

What it deliberately does not do: retry (`stores.wrappers.retry` does), limit bandwidth, check hashes, lock objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opskit.errors import (
    ObjectExists,
    ObjectNotFound,
    OpskitError,
    ProgramMissing,
    StoreError,
    StoreFull,
    StoreRefused,
)
from opskit.stores.base import Buffer, ObjectInfo, Swept, check_name, check_size, is_name
from opskit.stores.url.service import Honours, LibraryMissing, Refused, RootMissing, Service, Short

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
            return self._service.read(name, offset, length, lambda size: check_size(self.location, name, size))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose first parts equal `prefix` ("" for all), sorted by name; raises StoreError."""
        if prefix:
            check_name(prefix)
        return self._listed(prefix)

    def delete(self, name: str) -> None:
        """Remove `name`; raises ObjectNotFound, StoreError."""
        check_name(name)
        with self._translated("delete", name):
            self._service.remove(name)

    def sweep(self, *, now: float, older_than: float, dry_run: bool = False) -> Swept:
        """Remove what killed puts left behind, see Sweepable. May raise StoreError."""
        with self._translated("clean"):
            return self._service.sweep(now, older_than, dry_run=dry_run)

    def probe(self) -> Honours | None:
        """What the endpoint honours, by a few requests; None where there is nothing to find out. Raises StoreError."""
        with self._translated("probe"):
            return self._service.probe()

    def shortcomings(self) -> Sequence[str]:
        """What the service cannot promise, a sentence each."""
        return self._service.shortcomings()

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._translated("list"):
            found = [each for each in self._service.objects(prefix, self.at_once) if is_name(each.name)]
        yield from sorted(found)

    @contextmanager
    def _translated(self, verb: str, name: str = "") -> Iterator[None]:
        """Turn what libraries raise, which may be anything, into a StoreError."""
        cannot = f"{self.location}: cannot {verb}{' ' + name if name else ''}"
        try:
            yield
        except OpskitError:  # a secret that cannot be had, too
            raise
        except LibraryMissing as error:
            raise ProgramMissing(
                f"{self.location}: expected the Python package {error.package}, got none",
                hint=f"install it beside opskit: pip install 'opskit[{error.extra}]'",
            ) from None
        except FileNotFoundError as error:
            if isinstance(error, RootMissing) or not name or verb == "write":
                root = self._service.root
                raise StoreError(
                    f"{self.location}: expected a {root}, got nothing: the {root} is absent",
                    hint=self._service.root_hint,
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
        except TimeoutError as error:
            raise self._silent(cannot, error) from error
        except Short as error:
            raise Lost(f"{cannot}: {error}", hint="try again; look at the service if it stays so") from error
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

    def _silent(self, cannot: str, error: Exception) -> StoreError:
        if self._service.was_heard:
            return Lost(f"{cannot}: {error}", hint="try again; look at the network and the service if it stays so")
        return StoreError(
            f"{cannot}: the service cannot be reached: {error}",
            hint="check the address, the network and any firewall; what was stored will be reused",
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
