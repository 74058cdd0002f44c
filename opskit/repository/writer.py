"""Turns new chunks into packs and sees them to the copies.

Invariants:
- A chunk is stored at most once a run, and not at all when a pack in this run's listings holds it.
- Order per pack: sealed (and read back) → noted in the cache → put. Packs follow their run's key object.
- Memory is bounded: `workers + 1` buffers for data packs and two for meta packs, however much there is to store.
  While a line is full, packs are sealed one at a time.
- The cache and all bookkeeping are touched by the calling thread alone; worker threads only compress,
  encrypt and put.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from opskit.repository import names, pack
from opskit.repository.cache import Cache, PackRow
from opskit.repository.fanout import Fanout
from opskit.repository.pack import PackBuffer, Sealed

DATA, META = False, True
INDEX_EVERY_PACKS = 64
INDEX_EVERY_CHUNKS = 200_000
FIRST_PACK = 8 * 1024 * 1024
"""Bytes after which a run's first data pack is full, so that those who seal need not wait for long."""


@dataclass(slots=True)
class OpenRun:
    """A run while its key exists: 64 hex characters in memory, dropped with this object."""

    id: str
    key: bytes = field(repr=False)
    key_object: str = ""
    row: int = 0


class _Filling:
    """A buffer being filled, the number its pack will have, and its kind."""

    def __init__(self, buffer: PackBuffer, number: int, *, meta: bool) -> None:
        self.buffer, self.number, self.meta = buffer, number, meta


class ChunkWriter:
    """Stores chunks; `data` and `meta` chunks go into separate packs.

    `start_run` makes the run and puts its key object, once, before the first pack; `write_index` is
    given the numbers of packs that no index describes yet.
    """

    def __init__(
        self,
        cache: Cache,
        live: dict[int, PackRow],
        fanout: Fanout,
        *,
        start_run: Callable[[], OpenRun],
        write_index: Callable[[OpenRun, list[int]], None],
        workers: int,
    ) -> None:
        self._cache, self._live, self._fanout = cache, live, fanout
        self._start_run, self._write_index = start_run, write_index
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="pack")
        self._buffers_left = {DATA: workers + 1, META: 2}
        self._buffers: list[PackBuffer] = []
        self._free: dict[bool, list[PackBuffer]] = {DATA: [], META: []}
        self._filling: dict[bool, _Filling] = {}
        self._sealing: dict[Future[Sealed], _Filling] = {}
        self._pending: dict[bytes, int] = {}
        self._unindexed: list[int] = []
        self._unindexed_chunks = 0
        self._run: OpenRun | None = None
        self._is_first = True
        self.content_bytes = self.stored_bytes = 0

    def close(self) -> None:
        """Stop the workers; what is not sealed yet is dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for buffer in self._buffers:
            buffer.close()

    @property
    def run(self) -> OpenRun:
        """The run, started on first use."""
        if self._run is None:
            self._run = self._start_run()
        return self._run

    @property
    def started(self) -> bool:
        """Whether anything was stored, or waits to be."""
        return self._run is not None or any(filling.buffer.ids for filling in self._filling.values())

    def find(self, chunk_id: bytes) -> int | None:
        """The number of the pack that holds a chunk, here or at a reachable copy, else None."""
        number = self._pending.get(chunk_id)
        if number is None:
            number = self._cache.find(chunk_id, self._live)
        return number

    def slot(self, length: int) -> memoryview:
        """Memory to read a data chunk of up to `length` bytes into; `keep` makes it one."""
        filling = self._filling.get(DATA)
        if filling is None or not filling.buffer.has_room(length):
            filling = self._room(length, meta=DATA)
        return filling.buffer.slot(length)

    def keep(self, chunk_id: bytes, length: int) -> int:
        """Store what was read into the slot, unless it is stored; returns its pack number."""
        number = self.find(chunk_id)
        if number is None:
            filling = self._filling[DATA]
            filling.buffer.add(chunk_id, length)
            number = self._pending[chunk_id] = filling.number
            self.content_bytes += length
            if self._is_first:
                self._seal_first()
        return number

    def store(self, content: bytes | memoryview, *, meta: bool = False) -> tuple[bytes, int]:
        """Store a chunk from elsewhere, unless it is stored; returns (id, pack number)."""
        chunk_id = hashlib.sha256(content).digest()
        if meta:
            self._collect(block=False)  # often enough: a piece of tree stands for some hundred files
        number = self.find(chunk_id)
        if number is None:
            filling = self._room(len(content), meta=meta)
            filling.buffer.append(chunk_id, content)
            number = self._note(chunk_id, len(content), filling)
            if self._is_first and not meta:
                self._seal_first()
        return chunk_id, number

    def _seal_first(self) -> None:
        """Begin to seal the run's first data pack once it holds enough."""
        if len(self._filling[DATA].buffer) >= FIRST_PACK:
            self._is_first = False
            self._seal(meta=DATA)

    def seal_data(self) -> None:
        """Begin to seal the data pack being filled; for when no more data comes, and so no other work."""
        self._seal(meta=False, threads=self._workers)

    def store_root(self, build: Callable[[Callable[[int], str | None]], bytes]) -> tuple[int, int]:
        """Store a root as the last member of a meta pack; returns (pack number, member number).

        `build` makes the root from a function pack number → name, None meaning the root's own pack.
        """
        root = build(self._name)
        filling = self._filling.get(True)
        if filling is not None and not filling.buffer.has_room(len(root)):
            self._seal(meta=True)
            root = build(self._name)
        filling = self._room(len(root), meta=True)
        filling.buffer.append(hashlib.sha256(root).digest(), root)
        self.content_bytes += len(root)
        member = len(filling.buffer.ids) - 1
        self._seal(meta=True)
        return filling.number, member

    def _name(self, number: int) -> str | None:
        """What the root calls a pack: None for its own; for one that is being sealed, wait."""
        filling = self._filling.get(True)
        if filling is not None and filling.number == number:
            return None
        while number not in self._live and self._sealing:
            self._collect(block=True)
        return self._live[number].name

    def _note(self, chunk_id: bytes, length: int, filling: _Filling) -> int:
        self._pending[chunk_id] = filling.number
        self.content_bytes += length
        return filling.number

    def _room(self, length: int, *, meta: bool) -> _Filling:
        filling = self._filling.get(meta)
        if filling is not None and not filling.buffer.has_room(length):
            self._seal(meta=meta)
            filling = None
        if filling is None:
            filling = self._filling[meta] = _Filling(self._buffer(meta=meta), self._cache.new_pack_number(), meta=meta)
        return filling

    def _buffer(self, *, meta: bool) -> PackBuffer:
        self._collect(block=False)
        free = self._free[meta]
        while not free:
            if self._buffers_left[meta]:
                self._buffers_left[meta] -= 1
                self._buffers.append(PackBuffer())
                free.append(self._buffers[-1])
            else:
                self._collect(block=True)
        return free.pop()

    def _seal(self, *, meta: bool, threads: int = 0) -> None:
        filling = self._filling.pop(meta, None)
        if filling is None:
            return
        if not filling.buffer.ids:  # nothing but duplicates was read into it
            self._free[meta].append(filling.buffer)
            return
        while self._sealing and self._fanout.is_full:  # one at a time will do: the line is what keeps all waiting
            self._collect(block=True)
        future = self._threads.submit(pack.seal, filling.buffer, self.run.key, threads=threads)
        self._sealing[future] = filling

    def _collect(self, *, block: bool) -> None:
        """Take in sealed packs: note them, put them, free their buffers."""
        if not self._sealing:
            return
        done, _ = wait(self._sealing, timeout=None if block else 0, return_when=FIRST_COMPLETED)
        for future in done:
            filling = self._sealing.pop(future)
            self._take(filling, future.result())
            filling.buffer.clear()
            self._free[filling.meta].append(filling.buffer)

    def _take(self, filling: _Filling, sealed: Sealed) -> None:
        number, ids = filling.number, filling.buffer.ids
        row = PackRow(number, sealed.name, self.run.row, len(sealed.data), len(filling.buffer))
        self._cache.add_pack(row, ids)
        self._fanout.put(names.pack(sealed.name), sealed.data)
        for chunk_id in ids:
            self._pending.pop(chunk_id, None)
        self._live[number] = row
        self.stored_bytes += len(sealed.data)
        self._want_index(number, len(ids))

    def _want_index(self, number: int, chunks: int) -> None:
        self._unindexed.append(number)
        self._unindexed_chunks += chunks
        if len(self._unindexed) >= INDEX_EVERY_PACKS or self._unindexed_chunks >= INDEX_EVERY_CHUNKS:
            self._flush_index()

    def flush(self) -> None:
        """Seal what is being filled and wait until all packs have been queued for the copies."""
        self._seal(meta=False)
        self._seal(meta=True)
        self._settle()

    def _settle(self) -> None:
        while self._sealing:
            self._collect(block=True)

    def finish(self, adopted: list[int]) -> None:
        """Flush packs, then index objects for them and for `adopted` packs; return when the copies have all."""
        self.flush()
        for number in adopted:
            self._want_index(number, len(self._cache.unindexed_ids(number) or b"") // 32)
        if self._unindexed:
            self._flush_index()
        self._fanout.wait()

    def _flush_index(self) -> None:
        # a copy receives objects in the order they are given: the index cannot overtake its packs
        self._write_index(self.run, self._unindexed)
        self._unindexed, self._unindexed_chunks = [], 0
