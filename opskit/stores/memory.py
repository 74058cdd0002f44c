"""A store in memory, for tests: the contract and nothing else, so that a test fails for its own reasons only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator

from opskit.errors import ObjectExists, ObjectNotFound
from opskit.stores.base import Buffer, ObjectInfo, check_name, check_size

_PIECE = 1000


class MemoryStore:
    """Objects in a dictionary, stamped with `now()` (epoch seconds); see `opskit.stores.base` for the contract."""

    def __init__(self, now: Callable[[], float], *, location: str = "memory") -> None:
        self.location = location
        self._now = now
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Keep a copy of `data` under `name`; raises ObjectExists, unless to replace."""
        check_name(name)
        kept = bytes(data)
        with self._lock:
            if not replace:
                self._require_free(name)
            self._objects[name] = (kept, self._now())

    def put_pieces(self, name: str, pieces: Iterable[Buffer]) -> int:
        """As `put`, of the bytes that `pieces` give; returns how many. Raises ObjectExists."""
        check_name(name)
        with self._lock:
            self._require_free(name)
        data = b"".join(bytes(piece) for piece in pieces)
        self.put(name, data)
        return len(data)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, or up to `length` of them from `offset`; raises ObjectNotFound."""
        check_name(name)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"expected an offset and a length of at least 0, got {offset} and {length}")
        with self._lock:
            data, _ = self._found(name)
        if length is None:
            check_size(self.location, name, len(data))
        return data[offset : None if length is None else offset + length]

    def pieces(self, name: str) -> Generator[Buffer, None, None]:
        """All bytes of `name`, each piece valid until the next; raises ObjectNotFound."""
        data = self.get(name)
        buffer = bytearray(_PIECE)  # one for all, so that whoever keeps a piece finds another in its place
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose first parts equal `prefix` ("" for all), sorted by name, as they are at this moment."""
        if prefix:
            check_name(prefix)
        with self._lock:
            found = [ObjectInfo(name, len(data), modified) for name, (data, modified) in self._objects.items()]
        return iter(sorted(info for info in found if not prefix or f"{info.name}/".startswith(f"{prefix}/")))

    def delete(self, name: str) -> None:
        """Remove `name`; raises ObjectNotFound."""
        check_name(name)
        with self._lock:
            self._found(name)
            del self._objects[name]

    def _require_free(self, name: str) -> None:
        if name in self._objects:
            raise ObjectExists(f"{self.location}: {name}: expected a free name, got an object stored earlier")

    def _found(self, name: str) -> tuple[bytes, float]:
        try:
            return self._objects[name]
        except KeyError:
            raise ObjectNotFound(f"{self.location}: {name}: expected an object, got nothing") from None
