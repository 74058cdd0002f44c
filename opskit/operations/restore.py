"""Restore a snapshot, or part of it, into a folder.

Passes: the tree is read once, planning files; then each needed pack is opened once and its chunks are written where
they belong, by several threads (module `restoring.filling`); last come long files' times, links and folders. While the
tree is read the threads would be idle, so they read the index, and open the first packs.

Invariants: every chunk is compared with its id before a byte of it is written; a damaged pack is fetched from
another copy; what no copy holds is reported per file, everything else is restored. The target is
never deleted; nothing is written outside it (module `restoring.target`). A file that cannot be completed is
removed rather than left half right.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Literal

from opskit.errors import Damaged, SnapshotNotFound, UsageError
from opskit.operations.restoring.entries import with_parents
from opskit.operations.restoring.filling import Filler, abandon
from opskit.operations.restoring.large import give_size
from opskit.operations.restoring.ledger import Ledger, Restored
from opskit.operations.restoring.pieces import pieces, spans
from opskit.operations.restoring.place import check_target, open_target
from opskit.operations.restoring.plan import Plan
from opskit.operations.restoring.target import Owners, Target
from opskit.repository import pack
from opskit.repository.index import IndexedPack
from opskit.repository.pack import Unpacker
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node
from opskit.sources.base import printable

__all__ = ["Overwrite", "RestoreOptions", "Restored", "files_of", "restore", "write_file"]

_ZEROS = bytes(1024 * 1024)
_EARLY_FILES = 2_000
"""So many planned files show which packs come first."""
_EARLY_INDEX = 16 * 1024 * 1024
"""Bytes of index objects that may be held in memory."""

Overwrite = Literal["never", "if-changed", "always"]


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What to restore and how. `below` is a tree path, `wanted` decides by path and type; both narrow.

    `compared_after`: whoever asks reads every restored file back and holds it against the tree, so contents need not be
    hashed on their way too, and large files may stay in the page cache; packs are still held against their names.
    """

    below: bytes = b""
    wanted: Callable[[Node], bool] = lambda node: True
    overwrite: Overwrite = "never"
    owner_by_name: bool = False
    workers: int = 2
    compared_after: bool = False


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
        self._ledger = Ledger(result)
        self._filler = Filler(
            reader, self._new_target, self._ledger, options.workers, compared_after=options.compared_after
        )
        self._plan = Plan()
        self._index: Future[list[IndexedPack]] | None = None
        self._early: list[str] = []
        self._folders: list[tuple[Node, bool]] = []
        self._long: dict[int, Node] = {}
        self._links: list[tuple[Node, bytes]] = []
        self._first_of: dict[str, bytes] = {}

    def _new_target(self) -> Target:
        return Target(self._root, self._owners, replace=self._replace)

    def run(self, entries: Iterable[tuple[Node, bool]]) -> Restored:
        try:
            self._prepare_all(entries)
            if self._result.planned_files:
                self._fill()
            self._filler.close()
            self._finish()
        except BaseException as error:
            self._filler.abort(error)
            for node in self._long.values():
                abandon(self._target, node)
            raise
        finally:
            self._plan.close()
            self._target.close()
        self._result.problems.sort()
        return self._result

    def _prepare_all(self, entries: Iterable[tuple[Node, bool]]) -> None:
        due = _EARLY_FILES
        for node, is_wanted in entries:
            try:
                if is_wanted:
                    self._prepare(node)
                else:
                    self._prepare_parent(node)
            except (OSError, Damaged) as error:
                self._ledger.fail(node.path, error)
            if self._result.planned_files >= due and self._open_early():
                due = sys.maxsize

    def _open_early(self) -> bool:
        """Let the threads open the packs that come first, once the index is read; whether that is settled."""
        if self._index is None:
            return True
        if not self._index.done():
            return False
        if self._index.exception() is None:
            self._early = self._plan.first_packs(self._index.result(), self._options.workers)
            for name in self._early:
                self._filler.open_early(name)
        return True

    def _fill(self) -> None:
        """Hand each pack that is needed to the threads, with what is wanted of it."""
        plan, filler = self._plan, self._filler
        self._reader.forget_tree()
        plan.locate(self._reader.indexed_packs() if self._index is None else self._index.result())
        self._index = None
        for name in self._early:
            filler.fill(name, plan.wants(name))
        for want in plan.unlocated():
            if self._ledger.lose(want, "no readable pack holds its content") and not want.whole:
                self._target.abandon_file(want.node.path)
        for name, wants in plan.by_pack(without=self._early):
            filler.fill(name, wants)

    def _finish(self) -> None:
        for number, node in list(self._long.items()):
            if not self._ledger.is_broken(number):
                self._guard(node, self._finish_long)
            del self._long[number]
        for node, first in self._links:
            self._guard(node, lambda each, first=first: self._link(first, each))  # type: ignore[misc]
        for node, touch in reversed(self._folders):
            self._guard(node, lambda each, touch=touch: self._finish_folder(each, touch))  # type: ignore[misc]

    def _guard(self, node: Node, act: Callable[[Node], object]) -> None:
        """One entry's trouble is that entry's alone; a full disk is everyone's."""
        try:
            act(node)
        except (OSError, Damaged) as error:
            self._ledger.fail(node.path, error)

    def _prepare_parent(self, node: Node) -> None:
        """A folder above what is wanted: as it was if this restore makes it, else not touched."""
        if not self._make_folder(node):
            self._folders.append((node, True))

    def _make_folder(self, node: Node) -> bool:
        """Make sure a folder is there, at the latest when it is finished; returns whether it was before."""
        if not self._replace:
            return False
        existed = self._target.existing(node.path) is not None
        self._target.make_folder(node)
        return existed

    def _prepare(self, node: Node) -> None:
        self._result.entries += 1
        if node.type == "dir":
            existed = self._make_folder(node)
            self._folders.append((node, not (existed and node.mtime is None)))
            return
        if node.hardlink is not None and (first := self._first_of.setdefault(node.hardlink, node.path)) != node.path:
            self._links.append((node, first))
            self._result.planned_bytes += node.size
        elif node.type == "file":
            self._prepare_file(node)
        else:
            self._ledger.complain(node.path, self._target.make_other(node))

    def _prepare_file(self, node: Node) -> None:
        if node.error is not None:
            self._ledger.fail(node.path, Damaged(f"its content was not backed up: {node.error}"))
            return
        if self._options.overwrite == "if-changed" and (found := self._target.same_file(node)) is not None:
            self._result.skipped += 1
            self._ledger.complain(node.path, self._target.mend_file(node, found))
            return
        if not self._result.planned_files and self._reader.index_bytes() <= _EARLY_INDEX:
            self._index = self._filler.threads.submit(lambda: list(self._reader.indexed_packs()))
        self._result.planned_files += 1
        self._result.planned_bytes += node.size
        whole = len(node.chunks) == 1 and not node.holes
        number = self._plan.add(node, whole=whole)
        if not whole:
            self._begin_long(node, number)

    def _begin_long(self, node: Node, number: int) -> None:
        self._long[number] = node  # before it exists: whoever interrupts must find what to remove
        try:
            descriptor = self._target.create_file(node.path)
        except OSError:
            del self._long[number]
            self._ledger.give_up(number)
            raise
        try:
            give_size(descriptor, node.size, dense=not node.holes)
        finally:
            os.close(descriptor)

    def _finish_long(self, node: Node) -> None:
        descriptor = self._target.reopen_file(node.path)
        try:
            self._ledger.complain(node.path, self._target.finish_file(node, descriptor))
        except OSError:
            abandon(self._target, node)
            raise
        finally:
            os.close(descriptor)
        self._ledger.count(1, sum(length for _, length in node.holes))

    def _link(self, first: bytes, node: Node) -> None:
        if self._ledger.is_absent(first):  # its name may still lead to what was in the target before
            raise Damaged(f"its content was not restored: {printable(first)} is the same file")
        self._target.link(first, node)
        if node.type == "file":  # as the backup counts it, or its report and this one's would differ
            self._ledger.count(1, node.size)

    def _finish_folder(self, node: Node, touch: bool) -> None:
        self._ledger.complain(node.path, self._target.finish_folder(node, touch=touch))


def write_file(reader: SnapshotReader, path: bytes, output: BinaryIO) -> None:
    """Write one file's content, holes as zeros, to a stream; raises UsageError, SnapshotNotFound, Damaged.

    Without a path it is the only file of the snapshot: a dump, as a rule.
    """
    path = path or _only_file(reader)
    nodes = list(islice(reader.nodes(reader.root(), path), 2))
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


def _only_file(reader: SnapshotReader) -> bytes:
    files = [node.path for node in islice((each for each in reader.nodes(reader.root()) if each.type == "file"), 2)]
    if not files:
        raise SnapshotNotFound("no file in the snapshot", hint="opskit ls shows what is in it")
    if len(files) > 1:
        raise UsageError(
            "expected SNAPSHOT:PATH, one file, got a snapshot of several",
            hint=f"say which, for example SNAPSHOT:{printable(files[0])}; opskit ls lists them",
        )
    return files[0]


def _write_zeros(output: BinaryIO, position: int, end: int) -> int:
    while position < end:
        count = min(end - position, len(_ZEROS))
        output.write(_ZEROS[:count])
        position += count
    return position
