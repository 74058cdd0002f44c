"""Writes the content of files, pack by pack, in several threads.

Invariants: every chunk is compared with its id before a byte of it is written; a file that cannot be completed
is removed rather than left half right, and told of once. Which packs to open, and what is wanted from each, others
decide; a pack may be opened before that is known.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from opskit.errors import Damaged, OpskitError
from opskit.log import logger
from opskit.operations.restoring.large import LARGE, release
from opskit.operations.restoring.ledger import Ledger
from opskit.operations.restoring.pieces import Want, spans
from opskit.operations.restoring.target import Target, write_all
from opskit.repository import pack
from opskit.repository.pack import Unpacker
from opskit.repository.reader import SnapshotReader
from opskit.repository.threads import end
from opskit.repository.tree import Node

log = logger(__name__)

_TELL_BYTES = 4 * 1024 * 1024
"""How much may be written before the progress knows."""

Wants = Callable[[], list[Want]]
"""Tells what is wanted of a pack; may wait for it."""
Fetch = Callable[[], bytes]
"""Gives a pack as it is stored; may wait for it."""


class Filler:
    """Opens packs and writes what is wanted from them, `workers` at a time; `close` ends it, `abort` at once.

    Where packs take their time to come, those next in turn are fetched meanwhile, as many as the reader says. With
    `compared_after` the content of a chunk is not held against its id: the caller must do that with what was written,
    which therefore stays in the page cache.
    """

    def __init__(
        self,
        reader: SnapshotReader,
        new_target: Callable[[], Target],
        ledger: Ledger,
        workers: int,
        *,
        compared_after: bool = False,
    ) -> None:
        self._reader, self._new_target, self._ledger, self._workers = reader, new_target, ledger, workers
        self._compared_after = compared_after
        self.threads = ThreadPoolExecutor(workers, thread_name_prefix="restore")
        self._ahead = reader.at_once if reader.at_once > 1 else 0
        self._fetchers = ThreadPoolExecutor(max(self._ahead, 1), thread_name_prefix="fetch")
        self._running: set[Future[None]] = set()
        self._early: dict[str, Future[list[Want]]] = {}
        self._thread = threading.local()
        self._targets: list[Target] = []
        self._lock = threading.Lock()

    def open_early(self, name: str) -> None:
        """Begin to open a pack before it is known what is wanted from it; `fill` it before any other."""
        wants = self._early[name] = Future()
        self._begin(name, wants.result)

    def fill(self, name: str, wants: list[Want]) -> None:
        """Write what is wanted of a pack, soon; waits while enough is under way. Raises what a worker raised."""
        log.debug("pack wanted", pack=name, pieces=len(wants))
        early = self._early.get(name)
        if early is not None:
            early.set_result(wants)  # before it is forgotten: whoever interrupts must find whom to let go
            del self._early[name]
            return
        self._begin(name, lambda: wants)
        while len(self._running) > self._workers + self._ahead:
            self._collect()

    def _begin(self, name: str, wanted: Wants) -> None:
        fetch: Fetch | None = None  # then the thread that opens a pack reads it
        if self._ahead:
            fetch = self._fetchers.submit(self._reader.fetch_pack, name).result
        self._running.add(self.threads.submit(self._write_pack, name, fetch, wanted))

    def close(self) -> None:
        """Wait until all is written; raises what a worker raised."""
        while self._running:
            self._collect()
        self._end(None)

    def abort(self, error: BaseException) -> None:
        """Begin nothing more, and wait for what is under way; not for long where somebody interrupts."""
        for wants in self._early.values():
            wants.cancel()
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        end(self._fetchers, (), error)
        if end(self.threads, self._running, error):  # else a thread that comes back must not find others' descriptors
            while self._targets:
                self._targets.pop().close()

    def _collect(self) -> None:
        done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()

    def _tools(self) -> tuple[Target, Unpacker]:
        """This thread's target and unpacker."""
        if not hasattr(self._thread, "tools"):
            target = self._new_target()
            with self._lock:
                self._targets.append(target)
            self._thread.tools = target, Unpacker()
        tools: tuple[Target, Unpacker] = self._thread.tools
        return tools

    def _write_pack(self, name: str, fetch: Fetch | None, wanted: Wants) -> None:
        target, unpacker = self._tools()
        try:
            reader = self._reader
            tar = reader.open_pack(name, fetch(), unpacker) if fetch else reader.get_pack(name, unpacker)
            members = dict(pack.members(tar))
        except OpskitError as error:
            for want in wanted():
                self._lose(target, want, str(error))
            return
        checked: set[bytes] = set()
        files = size = 0
        try:
            for want in wanted():
                if not self._write_piece(target, name, want, members, checked):
                    continue
                if not want.whole:
                    self._ledger.count_part(want.file, want.length)
                    continue
                files += 1
                size += want.length
                if size >= _TELL_BYTES:
                    self._ledger.count(files, size)
                    files = size = 0
        finally:
            self._ledger.count(files, size)

    def _write_piece(
        self, target: Target, name: str, want: Want, members: dict[bytes, memoryview], checked: set[bytes]
    ) -> bool:
        """Check a chunk, if that is not done, and write it where it is wanted; False where that cannot be."""
        ledger = self._ledger
        chunk_id, _, length, file, node, whole = want
        if ledger.is_broken(file):
            return False
        content = members.get(chunk_id)
        try:
            if content is None or len(content) != length:
                raise Damaged(f"pack {name[:16]} lacks a chunk it should hold")
            if not self._compared_after and chunk_id not in checked:
                pack.check_chunk(chunk_id, content)
                checked.add(chunk_id)
            if whole:
                _write_whole(target, node, content, ledger)
            else:
                _write_part(target, want, content, keep=self._compared_after)
        except Damaged as error:
            self._lose(target, want, str(error))
            return False
        except OSError as error:
            if ledger.give_up(file):  # else another thread has given it up, and removed it
                if not whole:
                    abandon(target, node)
                ledger.fail(node.path, error)
            return False
        return True

    def _lose(self, target: Target, want: Want, message: str) -> None:
        """Tell that a file cannot be whole, and remove what was begun of it."""
        if self._ledger.lose(want, message) and not want.whole:
            target.abandon_file(want.node.path)


def _write_whole(target: Target, node: Node, content: memoryview, ledger: Ledger) -> None:
    mode = target.first_mode(node)
    descriptor = target.create_file(node.path, mode)
    try:
        write_all(descriptor, content, 0)
        complaints = target.finish_file(node, descriptor, mode)
    except BaseException:
        abandon(target, node)
        raise
    finally:
        os.close(descriptor)
    if complaints:
        ledger.complain(node.path, complaints)


def _write_part(target: Target, want: Want, content: memoryview, *, keep: bool) -> None:
    """Write a piece of a file; of a large one it does not stay in the page cache, unless to `keep` it there."""
    descriptor = target.reopen_file(want.node.path)
    try:
        done = 0
        for position, length in spans(want.node, want.position, want.length):
            write_all(descriptor, content[done : done + length], position)
            done += length
        if want.node.size >= LARGE and not keep:
            release(descriptor)
    finally:
        os.close(descriptor)


def abandon(target: Target, node: Node) -> None:
    """Remove what was begun of a file; what the medium still refuses stays."""
    with contextlib.suppress(OSError):
        target.abandon_file(node.path)
