"""A store that can be read only, whatever the medium would allow: for copies that nobody should change by accident."""

from __future__ import annotations

from collections.abc import Iterator

from opskit.errors import StoreRefused
from opskit.stores.base import Buffer, Filling, ObjectInfo, Store, check_name


class ReadOnly:
    """`inner` without put and delete: both raise StoreRefused and reach nothing."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.location = inner.location
        if isinstance(inner, Filling):
            self.get_into = inner.get_into

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Raises StoreRefused."""
        check_name(name)
        raise self._refusal(f"write {name}")

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, or up to `length` of them from `offset`; raises ObjectNotFound, StoreError."""
        return self.inner.get(name, offset=offset, length=length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below `prefix`, sorted by name; raises StoreError."""
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        """Raises StoreRefused."""
        check_name(name)
        raise self._refusal(f"delete {name}")

    def _refusal(self, act: str) -> StoreRefused:
        return StoreRefused(
            f"{self.location}: cannot {act}: expected a copy that may be changed, got one opened read-only",
            hint="run a command that writes to this destination, or take another one",
        )
