"""Feeds every copy from one stream of objects.

Invariants:
- Each copy has its own thread and receives objects in the order they were given, so a manifest
  can never overtake what it needs; a slow copy delays the others only when it is `_AHEAD` objects behind.
- One copy's failure is recorded on that copy and stops nothing else. When the last copy fails, the
  failure is raised: there is no one left to write for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from opskit.errors import OpskitError, StoreError
from opskit.repository.copy import Copy
from opskit.stores.base import Buffer

_AHEAD = 2


class Fanout:
    """Puts objects to all working copies; use as a context manager."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._copies = copies
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"put-{copy.destination}") for copy in copies]
        self._pending: list[deque[Future[None]]] = [deque() for _ in copies]

    def __enter__(self) -> Fanout:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)

    def put(self, name: str, data: Buffer) -> None:
        """Queue an object for every working copy; raises the first copy's StoreError when none works."""
        for copy, thread, pending in zip(self._copies, self._threads, self._pending, strict=True):
            if copy.failed is None:
                pending.append(thread.submit(_put, copy, name, data))
            while len(pending) > _AHEAD:
                pending.popleft().result()
        self._require_one()

    def wait(self) -> None:
        """Return when everything queued is stored, or its copy has failed; raises when none works."""
        for pending in self._pending:
            while pending:
                pending.popleft().result()
        self._require_one()

    def _require_one(self) -> None:
        failures = [copy.failed for copy in self._copies if copy.failed is not None]
        if self._copies and len(failures) == len(self._copies):
            raise failures[0]


def _put(copy: Copy, name: str, data: Buffer) -> None:
    if copy.failed is not None:
        return
    try:
        copy.put(name, data)
    except OpskitError as error:
        copy.failed = error
    except Exception as error:  # a store that breaks its contract must not look like success
        copy.failed = StoreError(f"{copy.destination}: unexpected {type(error).__name__}: {error}")
