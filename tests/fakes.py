"""A store that fails on command: the same call, at the same point, every time."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from opskit.stores.base import Buffer, ObjectInfo, Store, Streaming

Operation = Literal["put", "get", "list", "delete"]
When = Literal["before", "after", "torn"]


class Crash(BaseException):
    """The process is dead: a BaseException, so that no `except Exception` lets it live on."""


@dataclass(frozen=True)
class Fault:
    """What happens at one call.

    `when`: "before" fails without acting; "after" acts, then fails; "torn" acts on part, then fails
    (a put stores the first `kept` of its bytes, as on a medium that is not atomic; a list yields that part
    of its objects; a get or delete is as "before"). `error` is raised then. With None nothing is: the call
    acts as it should, except that "torn" is a medium that loses data and says nothing. With `flip`, a get
    answers with that bit turned (counted from the first, modulo the length). `delay` seconds pass first.
    """

    when: When = "before"
    error: BaseException | None = None
    kept: float = 0.5
    flip: int | None = None
    delay: float = 0.0


NO_FAULT = Fault()


class FaultyStore:
    """Any store, with a fault at chosen calls, counted from 1 over all operations and threads.

    `plan` maps call numbers to faults; `crash_at` is short for a Crash at that call. Once a Crash
    was raised, every later call raises it too. `calls` counts the calls, `log` names each as
    (operation, name); a list is called when its first object is asked for, as its failure shows then.
    """

    def __init__(
        self,
        inner: Store,
        plan: Mapping[int, Fault] | None = None,
        *,
        crash_at: int | None = None,
        when: When = "before",
    ) -> None:
        self.inner = inner
        self.location = inner.location
        self.calls = 0
        self.log: list[tuple[Operation, str]] = []
        self.is_dead = False
        self._plan = dict(plan or {})
        if crash_at is not None:
            self._plan[crash_at] = Fault(when, Crash(f"at call {crash_at}, {when}"))
        self._lock = threading.Lock()

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Store `data` under `name`, or what the fault leaves of that."""
        fault = self._next("put", name)
        if fault.when == "before":
            self._fail(fault)
        whole = memoryview(data).cast("B")
        stored = whole[: int(len(whole) * fault.kept)] if fault.when == "torn" else whole
        self.inner.put(name, stored, replace=replace)
        self._fail(fault)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, perhaps with a bit flipped."""
        fault = self._next("get", name)
        if fault.when != "after":
            self._fail(fault)
        data = self.inner.get(name, offset=offset, length=length)
        self._fail(fault)
        return data if fault.flip is None else flipped(data, fault.flip)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The objects below `prefix`, or the first part of them and then the fault."""
        found = self.inner.list(prefix)
        return self._listed(found, prefix)

    def delete(self, name: str) -> None:
        """Remove `name`, or not."""
        fault = self._next("delete", name)
        if fault.when != "after":
            self._fail(fault)
        self.inner.delete(name)
        self._fail(fault)

    def _listed(self, found: Iterator[ObjectInfo], prefix: str) -> Iterator[ObjectInfo]:
        fault = self._next("list", prefix)
        if fault.when == "before":
            self._fail(fault)
        if fault.when == "torn":
            objects = list(found)
            yield from objects[: int(len(objects) * fault.kept)]
        else:
            yield from found
        self._fail(fault)

    def _next(self, operation: Operation, name: str) -> Fault:
        with self._lock:
            if self.is_dead:
                raise Crash(f"{operation} {name} after the end")
            self.calls += 1
            self.log.append((operation, name))
            fault = self._plan.get(self.calls, NO_FAULT)
        if fault.delay:
            time.sleep(fault.delay)
        return fault

    def _fail(self, fault: Fault) -> None:
        if fault.error is None:
            return
        if isinstance(fault.error, Crash):
            self.is_dead = True
        raise fault.error


class FaultyStreams(FaultyStore):
    """The same of a store that knows pieces: `put_pieces` counts as a put and `pieces` as a get.

    A get that is "torn" gives the first `kept` of the bytes, and then fails.
    """

    def put_pieces(self, name: str, pieces: Iterable[Buffer]) -> int:
        """Store the bytes of `pieces`, or what the fault leaves of them; asked for unless it is "before"."""
        fault = self._next("put", name)
        if fault.when == "before":
            self._fail(fault)
        if fault.when == "torn":
            whole = b"".join(map(bytes, pieces))
            self.inner.put(name, whole[: int(len(whole) * fault.kept)])
            size = len(whole)
        else:
            assert isinstance(self.inner, Streaming)
            size = self.inner.put_pieces(name, pieces)
        self._fail(fault)
        return size

    def pieces(self, name: str) -> Generator[Buffer, None, None]:
        """The bytes of `name` in some pieces, perhaps with a bit flipped."""
        fault = self._next("get", name)
        if fault.when == "before":
            self._fail(fault)
        data = self.inner.get(name)
        given = data if fault.flip is None else flipped(data, fault.flip)
        middle = int(len(given) * fault.kept)
        yield given[:middle]
        if fault.when == "torn":
            self._fail(fault)
        yield given[middle:]
        self._fail(fault)


def flipped(data: bytes, bit: int) -> bytes:
    """`data` with one bit turned, counted from the first, modulo its length; empty data stays empty."""
    if not data:
        return data
    changed = bytearray(data)
    bit %= 8 * len(changed)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)
