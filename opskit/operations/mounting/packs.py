"""Packs that were opened for reading here and there, the ones used last kept in memory.

Invariants: what is kept, its bookkeeping included, stays below a number of bytes; a pack is opened once however many
threads want it; a chunk is compared with its id before a byte of it is given out. A pack that no copy holds intact is
remembered as lost; a store that cannot be reached is asked again.

While packs are read in the order in which they were written, the next one is opened ahead.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from opskit.errors import Damaged, StoreError
from opskit.repository import pack
from opskit.repository.reader import SnapshotReader

HELD_BYTES = 256 * 1024 * 1024
"""Eight full packs; packs of small runs are many more."""
_MEMBER_BYTES = 400
"""What a member costs beside its content."""


@dataclass(slots=True)
class _Opened:
    members: dict[bytes, memoryview]
    size: int
    checked: set[bytes] = field(default_factory=set)
    used: bool = False


class OpenPacks:
    """Opened packs, shared by all snapshots that are looked into; calls from several threads are safe."""

    def __init__(self, held_bytes: int = HELD_BYTES) -> None:
        self._limit, self._bytes = held_bytes, 0
        self._held: OrderedDict[str, Future[_Opened]] = OrderedDict()
        self._lost: dict[str, Damaged] = {}
        self._lock = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")

    def close(self) -> None:
        """Open nothing more, and give the memory back."""
        self._ahead.shutdown(wait=True, cancel_futures=True)
        self._held.clear()

    def chunk(self, reader: SnapshotReader, name: str, chunk_id: bytes, following: Mapping[str, str]) -> memoryview:
        """A chunk's content from a pack; raises Damaged, StoreError."""
        opened = self._opened(reader, name)
        if not opened.used:
            opened.used = True
            self._look_ahead(reader, name, following)
        content = opened.members.get(chunk_id)
        if content is None:
            raise Damaged(f"pack {name[:16]} lacks chunk {chunk_id.hex()[:16]}")
        if chunk_id not in opened.checked:
            pack.check_chunk(chunk_id, content)
            opened.checked.add(chunk_id)
        return content

    def _look_ahead(self, reader: SnapshotReader, name: str, following: Mapping[str, str]) -> None:
        after = following.get(name)
        with self._lock:
            goes_on = any(following.get(held) == name for held in self._held)
            if after is None or not goes_on or after in self._held or after in self._lost:
                return
        self._ahead.submit(self._opened, reader, after)

    def _opened(self, reader: SnapshotReader, name: str) -> _Opened:
        with self._lock:
            if name in self._lost:
                raise Damaged(str(self._lost[name]))
            held = self._held.get(name)
            future = held or Future()
            self._held[name] = future
            self._held.move_to_end(name)
        if held is None:
            self._open(reader, name, future)
        return future.result()

    def _open(self, reader: SnapshotReader, name: str, future: Future[_Opened]) -> None:
        try:
            tar = reader.get_pack(name)
            members = dict(pack.members(tar))
            opened = _Opened(members, len(tar) + _MEMBER_BYTES * len(members))
        except BaseException as error:
            with self._lock:
                if self._held.get(name) is future:
                    del self._held[name]
                if isinstance(error, Damaged) and not _may_come_back(reader, name):
                    self._lost[name] = error
            future.set_exception(error)
            return
        future.set_result(opened)
        with self._lock:
            self._bytes += opened.size
            self._shrink()

    def _shrink(self) -> None:
        """Let go of what was not used for the longest time, but never of the last, which is in use."""
        for name, future in list(self._held.items()):
            if self._bytes <= self._limit or len(self._held) == 1:
                return
            if future.done():
                del self._held[name]
                self._bytes -= future.result().size


def _may_come_back(reader: SnapshotReader, name: str) -> bool:
    """Whether a copy could not be asked for a pack, so that it may hold it intact all the same."""
    return any(isinstance(each, StoreError) for key, each in list(reader.damage.items()) if key.endswith(name))
