"""Feeds every copy from one stream of objects.

Invariants:
- A copy receives packs side by side, as many at once as its store gains from, and everything else in its turn: after
  all that came before it, and before all that comes after. So a pack never overtakes the key object of its run, nor
  an index object or a manifest what it needs.
- Each copy has threads of its own; a slow one delays the others only when it is some objects behind (`_AHEAD`, or as
  many as it takes at once).
- One copy's failure is recorded on that copy and stops nothing else. When the last copy fails, the
  failures are raised together: there is no one left to write for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from opskit.errors import OpskitError, StoreError, together
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.threads import end
from opskit.stores.base import Buffer, at_once

_AHEAD = 2


class Fanout:
    """Puts objects to all working copies; use as a context manager."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._lanes = [_Lane(copy) for copy in copies]

    def __enter__(self) -> Fanout:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for lane in self._lanes:
            lane.close(kind)

    def put(self, name: str, data: Buffer) -> None:
        """Queue an object for every working copy; raises every copy's failure when none works."""
        for lane in self._lanes:
            lane.put(name, data)
        self._require_one()

    @property
    def is_full(self) -> bool:
        """Whether a line has all that it can take: what is made ready now would wait in memory."""
        return any(lane.is_full for lane in self._lanes)

    def wait(self) -> None:
        """Return when everything queued is stored, or its copy has failed; raises when none works."""
        for lane in self._lanes:
            lane.wait()
        self._require_one()

    def _require_one(self) -> None:
        failures = {lane.copy.destination: lane.copy.failed for lane in self._lanes if lane.copy.failed is not None}
        if self._lanes and len(failures) == len(self._lanes):
            raise together(failures)


class _Lane:
    """The objects on their way to one copy."""

    def __init__(self, copy: Copy) -> None:
        self.copy = copy
        workers = at_once(copy.store)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"put-{copy.destination}")
        # With the one that is handed over all workers have theirs; a pack more would lie in memory and help nobody.
        self._room = max(_AHEAD, workers - 1)
        self._is_line = workers > 1
        self._pending: deque[Future[None]] = deque()
        self._turn: list[Future[None]] = []

    @property
    def is_full(self) -> bool:
        """Whether this is a line, and an object more would have to wait. A disk's hiccups are short: it never is."""
        return self._is_line and sum(not each.done() for each in self._pending) >= self._room

    def close(self, error: type[BaseException] | None) -> None:
        """Begin nothing more; wait for what is under way, but not for long after an interruption."""
        end(self._threads, self._pending, error)

    def put(self, name: str, data: Buffer) -> None:
        """Queue an object, unless the copy has failed; waits while too many are on their way."""
        if self.copy.failed is None:
            # Threads begin in the order of the queue, so whatever one waits for was begun before.
            if names.is_pack(name):
                future = self._threads.submit(self._put, name, data, list(self._turn))
            else:
                future = self._threads.submit(self._put, name, data, list(self._pending))
                self._turn = [future]
            self._pending.append(future)
        while len(self._pending) > self._room:
            self._await_first()

    def wait(self) -> None:
        """Return when everything queued is stored, or the copy has failed."""
        while self._pending:
            self._await_first()

    def _await_first(self) -> None:
        self._pending[0].result()  # before it is forgotten: an interruption waits for what is under way
        self._pending.popleft()

    def _put(self, name: str, data: Buffer, before: Sequence[Future[None]]) -> None:
        wait(before)
        copy = self.copy
        if copy.failed is not None:
            return
        try:
            copy.put(name, data)
        except OpskitError as error:
            copy.failed = error
        except Exception as error:  # a store that breaks its contract must not look like success
            copy.failed = StoreError(f"{copy.destination}: unexpected {type(error).__name__}: {error}")
