"""Restore a snapshot, or part of it, into a folder.

Passes: the tree is read once, making folders and planning files; then each needed pack is opened once and
its chunks are written where they belong, by several threads; last come long files' times, links and folders.

Invariants: every chunk is compared with its id before a byte of it is written; a damaged pack is fetched from
another copy; what no copy holds is reported per file, everything else is restored. The target is
never deleted; nothing is written outside it (module `restoring.target`). A file that cannot be completed is
removed rather than left half right.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Literal

from opskit.errors import Damaged, OpskitError, SnapshotNotFound, StoreError, UsageError
from opskit.log import logger
from opskit.operations.restoring.entries import with_parents
from opskit.operations.restoring.place import FULL, check_target, full, open_target
from opskit.operations.restoring.plan import Plan, Want, pieces, spans
from opskit.operations.restoring.target import Owners, Target, write_all
from opskit.repository import pack
from opskit.repository.pack import Unpacker
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node
from opskit.sources.base import printable

log = logger(__name__)

_ZEROS = bytes(1024 * 1024)

Overwrite = Literal["never", "if-changed", "always"]


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What to restore and how. `below` is a tree path, `wanted` decides by path and type; both narrow."""

    below: bytes = b""
    wanted: Callable[[Node], bool] = lambda node: True
    overwrite: Overwrite = "never"
    owner_by_name: bool = False
    workers: int = 2


@dataclass(slots=True)
class Restored:
    """What was restored; `problems` are (path, message) of entries that are not as they were, sizes in bytes."""

    files: int = 0
    entries: int = 0
    total_bytes: int = 0
    skipped: int = 0
    planned_files: int = 0
    planned_bytes: int = 0
    problems: list[tuple[bytes, str]] = field(default_factory=list)

    def complain(self, path: bytes, message: str) -> None:
        """Note that an entry is not as it was."""
        self.problems.append((path, message))


def restore(
    reader: SnapshotReader, target: Path, options: RestoreOptions, progress: Restored | None = None
) -> Restored:
    """Restore into `target`, which is made once there is something to restore.

    Raises UsageError, StoreRefused or StoreError for a target that cannot be used.
    """
    result = progress or Restored()
    empty = options.overwrite == "never"
    check_target(target, empty=empty)
    entries = with_parents(reader, options.below, options.wanted)
    first = next(entries, None)
    if first is None:
        return result
    root = open_target(target, empty=empty)
    try:
        return _Restore(reader, root, options, result).run(chain([first], entries))
    finally:
        os.close(root)


def files_of(reader: SnapshotReader, options: RestoreOptions) -> Iterator[Node]:
    """The entries a restore would write, in tree order."""
    for node in reader.nodes(reader.root(), options.below):
        if options.wanted(node):
            yield node


class _Restore:
    def __init__(self, reader: SnapshotReader, root: int, options: RestoreOptions, result: Restored) -> None:
        self._reader, self._root, self._options, self._result = reader, root, options, result
        self._replace = options.overwrite != "never"
        self._owners = Owners(by_name=options.owner_by_name)
        self._target = self._new_target()
        self._targets = [self._target]
        self._thread = threading.local()
        self._lock = threading.Lock()
        self._plan = Plan()
        self._folders: list[tuple[Node, bool]] = []
        self._long: dict[int, Node] = {}
        self._broken: set[int] = set()
        self._links: list[tuple[Node, bytes]] = []
        self._first_of: dict[str, bytes] = {}

    def _new_target(self) -> Target:
        return Target(self._root, self._owners, replace=self._replace)

    def run(self, entries: Iterable[tuple[Node, bool]]) -> Restored:
        try:
            for node, is_wanted in entries:
                self._guard(node, self._prepare if is_wanted else self._prepare_parent)
            if self._result.planned_files:
                self._plan.locate(self._reader.indexed_packs())
                self._fetch()
            for number in list(self._long):
                node = self._long.pop(number)
                if number not in self._broken:
                    self._guard(node, self._finish_long)
            for node, first in self._links:
                self._guard(node, lambda each, first=first: self._target.link(first, each))  # type: ignore[misc]
            for node, touch in reversed(self._folders):
                self._guard(node, lambda each, touch=touch: self._finish_folder(each, touch))  # type: ignore[misc]
        except BaseException:
            for node in self._long.values():
                self._abandon(self._target, node)
            raise
        finally:
            self._plan.close()
            for target in self._targets:
                target.close()
        self._result.problems.sort()
        return self._result

    def _guard(self, node: Node, act: Callable[[Node], object]) -> None:
        """One entry's trouble is that entry's alone; a full disk is everyone's."""
        try:
            act(node)
        except OSError as error:
            self._complain(node.path, error)
        except Damaged as error:
            self._result.complain(node.path, str(error))

    def _complain(self, path: bytes, error: OSError) -> None:
        if error.errno in FULL:
            raise full(error) from error
        if error.errno == errno.EROFS:
            raise StoreError(f"the target cannot be written: {error.strerror}", hint="make it writable") from error
        with self._lock:
            self._result.complain(path, error.strerror or str(error))

    def _prepare_parent(self, node: Node) -> None:
        """A folder above what is wanted: as it was if this restore makes it, else not touched."""
        if not self._make_folder(node):
            self._folders.append((node, True))

    def _make_folder(self, node: Node) -> bool:
        """Make sure a folder is there; returns whether it was before."""
        existed = self._replace and self._target.existing(node.path) is not None
        self._target.make_folder(node)
        return existed

    def _prepare(self, node: Node) -> None:
        self._result.entries += 1
        if node.type == "dir":
            existed = self._make_folder(node)
            self._folders.append((node, not (existed and node.mtime is None)))
            return
        if node.hardlink is not None:
            first = self._first_of.setdefault(node.hardlink, node.path)
            if first != node.path:
                self._links.append((node, first))
                return
        if node.type != "file":
            for message in self._target.make_other(node):
                self._result.complain(node.path, message)
            return
        self._prepare_file(node)

    def _prepare_file(self, node: Node) -> None:
        if node.error is not None:
            self._result.complain(node.path, f"its content was not backed up: {node.error}")
            return
        if self._options.overwrite == "if-changed" and (found := self._target.same_file(node)) is not None:
            self._result.skipped += 1
            for message in self._target.mend_file(node, found):
                self._result.complain(node.path, message)
            return
        self._result.planned_files += 1
        self._result.planned_bytes += node.size
        whole = len(node.chunks) == 1 and not node.holes
        number = self._plan.add(node, whole=whole)
        if not whole:
            self._long[number] = node  # before it exists: whoever interrupts must find what to remove
            try:
                descriptor = self._target.create_file(node.path)
            except OSError:
                del self._long[number]
                self._broken.add(number)
                raise
            try:
                os.ftruncate(descriptor, node.size)
            finally:
                os.close(descriptor)
            node.chunks = []  # planned; a long list would stay in memory for nothing

    def _fetch(self) -> None:
        """Open packs in threads, a few ahead of what is written; rows are read by this thread alone."""
        for want in self._plan.unlocated():
            self._lose(want, "no readable pack holds its content")
        running: dict[Future[None], None] = {}
        with ThreadPoolExecutor(self._options.workers, thread_name_prefix="restore") as threads:
            try:
                for name, wants in self._plan.by_pack():
                    log.debug("pack wanted", pack=name, pieces=len(wants))
                    running[threads.submit(self._write_pack, name, wants)] = None
                    while len(running) > self._options.workers:
                        self._collect(running)
                while running:
                    self._collect(running)
            except BaseException:
                threads.shutdown(wait=True, cancel_futures=True)
                raise

    def _collect(self, running: dict[Future[None], None]) -> None:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            del running[future]
            future.result()

    def _write_pack(self, name: str, wants: list[Want]) -> None:
        try:
            target, unpacker = self._own_tools()
            members = dict(pack.members(self._reader.get_pack(name, unpacker)))
        except OpskitError as error:
            for want in wants:
                self._lose(want, str(error))
            return
        checked: set[bytes] = set()
        for want in wants:
            if want.file in self._broken:
                continue
            content = members.get(want.chunk_id)
            try:
                if content is None or len(content) != want.length:
                    raise Damaged(f"pack {name[:16]} lacks a chunk it should hold")
                if want.chunk_id not in checked:
                    pack.check_chunk(want.chunk_id, content)
                    checked.add(want.chunk_id)
                self._write(target, want, content)
            except Damaged as error:
                self._lose(want, str(error))
            except OSError as error:
                with self._lock:
                    self._broken.add(want.file)
                if not want.whole:
                    self._abandon(target, want.node)
                self._complain(want.node.path, error)

    def _own_tools(self) -> tuple[Target, Unpacker]:
        """This thread's target and unpacker."""
        if not hasattr(self._thread, "tools"):
            target = self._new_target()
            with self._lock:
                self._targets.append(target)
            self._thread.tools = target, Unpacker()
        tools: tuple[Target, Unpacker] = self._thread.tools
        return tools

    def _write(self, target: Target, want: Want, content: memoryview) -> None:
        node = want.node
        descriptor = target.create_file(node.path) if want.whole else target.reopen_file(node.path)
        try:
            if want.whole:
                write_all(descriptor, content, 0)
                complaints = target.finish_file(node, descriptor)
            else:
                complaints = []
                done = 0
                for position, length in spans(node, want.position, want.length):
                    write_all(descriptor, content[done : done + length], position)
                    done += length
        except BaseException:
            if want.whole:
                self._abandon(target, node)
            raise
        finally:
            os.close(descriptor)
        with self._lock:
            self._result.total_bytes += want.length
            self._result.files += want.whole
            for message in complaints:
                self._result.complain(node.path, message)

    def _abandon(self, target: Target, node: Node) -> None:
        """Remove what was begun of a file; what the medium still refuses stays."""
        with contextlib.suppress(OSError):
            target.abandon_file(node.path)

    def _lose(self, want: Want, message: str) -> None:
        """A file that cannot be whole is reported once, and what was begun of it removed."""
        with self._lock:
            if want.file in self._broken:
                return
            self._broken.add(want.file)
            self._result.complain(want.node.path, f"lost: {message}")
        if not want.whole:
            self._own_tools()[0].abandon_file(want.node.path)

    def _finish_long(self, node: Node) -> None:
        descriptor = self._target.reopen_file(node.path)
        try:
            for message in self._target.finish_file(node, descriptor):
                self._result.complain(node.path, message)
        finally:
            os.close(descriptor)
        self._result.files += 1

    def _finish_folder(self, node: Node, touch: bool) -> None:
        for message in self._target.finish_folder(node, touch=touch):
            self._result.complain(node.path, message)


def write_file(reader: SnapshotReader, path: bytes, output: BinaryIO) -> None:
    """Write one file's content, holes as zeros, to a stream; raises UsageError, SnapshotNotFound, Damaged."""
    nodes = list(islice(reader.nodes(reader.root(), path), 2)) if path else []
    if not nodes:
        raise SnapshotNotFound(f"no file {printable(path)!r} in the snapshot", hint="opskit ls shows what is in it")
    node = nodes[0]
    if len(nodes) > 1 or node.type != "file" or node.error is not None:
        raise UsageError(f"{printable(path)} is not one readable file", hint="--target DIR restores folders")
    wanted = {chunk_id for chunk_id, _ in node.chunks}
    indexed = reader.indexed_packs()
    places = {chunk_id: each.pack for each in indexed for chunk_id in each.chunk_ids() if chunk_id in wanted}
    unpacker, held, members = Unpacker(), "", dict[bytes, memoryview]()
    position = 0
    for chunk_id, start, length in pieces(node):
        name = places.get(chunk_id)
        if name is None:
            raise Damaged("no readable pack holds a part of the file")
        if name != held:
            held, members = name, dict(pack.members(reader.get_pack(name, unpacker)))
        content = members.get(chunk_id, memoryview(b""))
        pack.check_chunk(chunk_id, content)
        done = 0
        for offset, size in spans(node, start, length):
            position = _write_zeros(output, position, offset)
            output.write(content[done : done + size])
            done, position = done + size, position + size
    _write_zeros(output, position, node.size)
    output.flush()


def _write_zeros(output: BinaryIO, position: int, end: int) -> int:
    while position < end:
        count = min(end - position, len(_ZEROS))
        output.write(_ZEROS[:count])
        position += count
    return position
