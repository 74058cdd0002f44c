"""A store that takes no more than its share of the line.

Invariant: over any time the bytes sent, and those received, stay within rate · time plus one object a thread, over all
threads together. A single object travels at the speed of the line: a store hands objects over in one piece. So it
keeps a line usable on the average; smoothing within seconds is the business of the network (tc, a router).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from opskit.stores.base import Buffer, ObjectInfo, Store


class _Pace:
    """Hands out time: whoever wants to move bytes waits until those of others have had theirs."""

    def __init__(self, rate: float | None, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        if rate is not None and rate <= 0:
            raise ValueError(f"expected a rate above 0, got {rate}")
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._lock = threading.Lock()
        self._free_at = float("-inf")

    def wait(self, size: int = 0) -> None:
        """Wait for a turn to move `size` bytes."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock()
            turn = max(now, self._free_at)
            self._free_at = turn + size / self._rate
        if turn > now:
            self._sleep(turn - now)

    def book(self, size: int) -> None:
        """Note `size` bytes that have moved already."""
        if self._rate is None:
            return
        with self._lock:
            self._free_at = max(self._clock(), self._free_at) + size / self._rate


class Limited:
    """`inner`, with at most `upload_rate` and `download_rate` bytes a second on the average; None: no limit.

    `clock` gives seconds that never go back, `sleep` takes seconds.
    """

    def __init__(
        self,
        inner: Store,
        *,
        upload_rate: float | None = None,
        download_rate: float | None = None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.inner = inner
        self.location = inner.location
        self._up = _Pace(upload_rate, clock, sleep)
        self._down = _Pace(download_rate, clock, sleep)

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Store `data` under `name` when its turn has come; raises ObjectExists, StoreError."""
        self._up.wait(memoryview(data).nbytes)
        self.inner.put(name, data, replace=replace)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, or up to `length` of them from `offset`; raises ObjectNotFound, StoreError."""
        self._down.wait()
        data = self.inner.get(name, offset=offset, length=length)
        self._down.book(len(data))
        return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below `prefix`, sorted by name; raises StoreError. Not limited."""
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        """Remove `name`; raises ObjectNotFound, StoreError."""
        self.inner.delete(name)
