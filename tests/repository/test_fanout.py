"""The order in which copies receive objects, and what one copy's failure does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from opskit.errors import StoreError, StoreFull
from opskit.repository import names, pack, threads
from opskit.repository.cache import open_or_replace
from opskit.repository.copy import Copy
from opskit.repository.fanout import Fanout
from opskit.repository.writer import ChunkWriter, OpenRun
from opskit.stores.base import Buffer, ObjectInfo
from opskit.stores.memory import MemoryStore
from tests.repositories import noise

PAUSE = 0.02


class Slow:
    """A store that takes its time for a put, gains from several at once, and notes when each began and ended."""

    def __init__(self, many: int, *, full_after: int | None = None) -> None:
        self.at_once = many
        self.location = "slow"
        self.spans: dict[str, tuple[float, float]] = {}
        self.most = 0
        self._under_way = 0
        self._left = full_after
        self._lock = threading.Lock()
        self._kept = MemoryStore(lambda: 0.0)

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        with self._lock:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            if self._left is not None:
                self._left -= 1
        begun = time.perf_counter()
        time.sleep(PAUSE)
        self.spans[name] = begun, time.perf_counter()
        with self._lock:
            self._under_way -= 1
        if self._left is not None and self._left < 0:
            raise StoreFull("full")
        self._kept.put(name, data, replace=replace)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return self._kept.get(name, offset=offset, length=length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._kept.list(prefix)

    def delete(self, name: str) -> None:
        self._kept.delete(name)


def digest(number: int) -> str:
    return names.sha256(b"%d" % number)


def run_of(packs: range) -> list[str]:
    """A run's objects in their order: key, packs, index, more packs, index, pack list."""
    half = len(packs) // 2
    return [
        names.key(digest(-1)),
        *(names.pack(digest(number)) for number in packs[:half]),
        names.index(digest(-2)),
        *(names.pack(digest(number)) for number in packs[half:]),
        names.index(digest(-3)),
        names.packlist(digest(-4)),
    ]


def test_packs_travel_side_by_side_and_all_else_in_its_turn() -> None:
    """Whatever is no pack begins after all before it has ended, and ends before anything after it begins."""
    store = Slow(4)
    objects = run_of(range(16))
    with Fanout([Copy("a", store, "1", "r")]) as fanout:
        for name in objects:
            fanout.put(name, b"x")
        fanout.wait()
    assert store.most == 4
    for place, name in enumerate(objects):
        if not names.is_pack(name):
            begun, ended = store.spans[name]
            assert all(store.spans[before][1] <= begun for before in objects[:place])
            assert all(store.spans[after][0] >= ended for after in objects[place + 1 :])


def test_a_medium_is_asked_for_one_thing_at_a_time() -> None:
    """A store that says nothing else receives objects one by one, in their order."""
    store = Slow(1)
    objects = run_of(range(6))
    with Fanout([Copy("a", store, "1", "r")]) as fanout:
        for name in objects:
            fanout.put(name, b"x")
        fanout.wait()
    assert store.most == 1 and list(store.spans) == objects


def test_the_reader_waits_for_a_slow_copy() -> None:
    """No more objects are on their way to a copy than it takes at once, so that memory stays bounded."""
    store = Slow(4)
    with Fanout([Copy("a", store, "1", "r")]) as fanout:
        for number in range(20):
            fanout.put(names.pack(digest(number)), b"x")
            assert number + 1 - len(store.spans) <= 4 + 1
        fanout.wait()


def test_what_was_put_is_counted_whatever_came_at_once() -> None:
    """The bytes a copy was given are counted once each, by however many threads."""
    copy = Copy("a", Slow(4), "1", "r")
    with Fanout([copy]) as fanout:
        for number in range(40):
            fanout.put(names.pack(digest(number)), b"x" * 100)
        fanout.wait()
    assert copy.put_bytes == 4000 and len(copy.objects) == 40


def test_a_copy_that_fails_gets_no_more() -> None:
    """After a pack was refused, a copy receives nothing that needs it; the other copy receives all."""
    failing, other = Copy("a", Slow(4, full_after=5), "1", "r"), Copy("b", Slow(4), "2", "r")
    objects = run_of(range(16))
    with Fanout([failing, other]) as fanout:
        for name in objects:
            fanout.put(name, b"x")
        fanout.wait()
    assert isinstance(failing.failed, StoreFull) and other.failed is None
    assert set(other.objects) == set(objects)
    assert names.index(digest(-2)) not in failing.objects


def test_the_last_copy_that_fails_ends_the_run() -> None:
    """With no copy left to write for, the failure is raised."""
    with Fanout([Copy("a", Slow(4, full_after=0), "1", "r")]) as fanout, pytest.raises(StoreError):
        for name in run_of(range(40)):
            fanout.put(name, b"x")
            time.sleep(PAUSE / 4)


class Hanging(Slow):
    """A store whose puts do not return until they are let go."""

    def __init__(self) -> None:
        super().__init__(2)
        self.let_go = threading.Event()

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        self.let_go.wait()


def test_an_interruption_does_not_wait_for_a_hanging_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C a request that hangs is left behind; after any other end it is waited for."""
    monkeypatch.setattr(threads, "PATIENCE", 0.05)
    store = Hanging()
    copy = Copy("a", store, "1", "r")
    try:
        with pytest.raises(KeyboardInterrupt), Fanout([copy]) as fanout:
            fanout.put(names.pack(digest(1)), b"x")
            raise KeyboardInterrupt
        assert not store.let_go.is_set() and not copy.objects
    finally:
        store.let_go.set()
    pool = ThreadPoolExecutor(1)
    slow = pool.submit(time.sleep, 0.3)
    assert threads.end(pool, [slow], StoreError("no")) and slow.done()


def test_a_line_is_full_when_all_that_it_takes_at_once_is_under_way() -> None:
    """With one object handed over besides, as many are in memory as travel; a medium is never called full."""
    gate = threading.Event()

    class Gated(Slow):
        def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
            gate.wait(60)
            super().put(name, data, replace=replace)

    for many, is_full in ((3, True), (1, False)):
        gate.clear()
        with Fanout([Copy("x", Gated(many), "id", "r" * 32)]) as fanout:
            try:
                fanout.put(names.pack(digest(1)), b"1")
                assert not fanout.is_full
                fanout.put(names.pack(digest(2)), b"2")
                assert fanout.is_full is is_full
            finally:
                gate.set()
            fanout.wait()
            assert not fanout.is_full


@pytest.mark.parametrize("is_full", [True, False])
def test_packs_are_sealed_one_at_a_time_while_a_line_is_full(
    is_full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what is sealed would wait in memory anyway, none is sealed beside another; else as many as may be."""
    monkeypatch.setattr(pack, "_ROOM", 64 * 1024)
    meeting, met, seal = threading.Barrier(2), list[str](), pack.seal

    def sealed(*arguments: Any, **options: Any) -> pack.Sealed:
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.05 if is_full else 5)
            met.append("two at once")
        return seal(*arguments, **options)

    class Full(Fanout):
        @property
        def is_full(self) -> bool:
            return is_full

    monkeypatch.setattr(pack, "seal", sealed)
    store = MemoryStore(lambda: 0.0)
    cache = open_or_replace(tmp_path / "cache", "r" * 32)
    with closing(cache), Full([Copy("x", store, "id", "r" * 32)]) as fanout:
        writer = ChunkWriter(
            cache, {}, fanout,
            start_run=lambda: OpenRun("run", b"ab" * 32, row=cache.add_run("run", digest(1))),
            write_index=lambda _run, _packs: None, workers=2,
        )  # fmt: skip
        with closing(writer):
            for number in range(4):
                writer.store(noise(number, 40_000))
            writer.flush()
        fanout.wait()
    assert len(list(store.list("packs"))) == 4 and bool(met) is not is_full
