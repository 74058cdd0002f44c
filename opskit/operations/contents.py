"""Reads one entry of a source thoroughly: whatever it is, and whatever happens to it meanwhile.

Invariants: what cannot be read is told to `note` and stands in the entry's line as its error; a file is read
straight into the pack's memory where it is one chunk; content goes to the writer, nothing is kept here.

It does not decide whether an entry needs reading, and knows no short cuts: those are the reading's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import NamedTuple

from opskit.repository import tree
from opskit.repository.chunker import MIN_CHUNK, Chunker
from opskit.repository.lasttree import signature_of
from opskit.repository.tree import Chunk, Node
from opskit.repository.writer import ChunkWriter
from opskit.sources.base import Entry, OpenFile, Problem, Source, data_regions

MAX_HOLES = 4096
"""A file with more holes is stored dense: it would cost more to list them."""


class Content(NamedTuple):
    """An entry as read: tree lines (empty: it vanished), the packs of its chunks, its size in bytes."""

    lines: bytes
    packs: list[int]
    size: int
    is_whole: bool
    """False where it changed meanwhile or could not be read: the next run has to look again."""


GONE = Content(b"", [], 0, False)


class EntryReader:
    """Reads entries of one source into chunks and tree lines; `note` takes the problems."""

    def __init__(self, source: Source, writer: ChunkWriter, note: Callable[[Problem], None]) -> None:
        self._source, self._writer, self._note = source, writer, note
        self._chunker = Chunker()

    def read(self, entry: Entry) -> Content:
        """The entry anew; raises SourceError, StoreError (no copy works), CacheError."""
        packs: list[int] = []
        opened: OpenFile | None = None
        node = _node(entry)
        is_whole = True
        try:
            if entry.kind == "file":
                answer = self._source.open(entry)
                if isinstance(answer, Problem):
                    self._note(answer)
                    if answer.kind == "vanished":
                        return GONE
                    node.error, is_whole = answer.message, False
                else:
                    opened = answer
                    is_whole = self._read_content(entry, opened, node, packs)
            if not self._add_metadata(entry, opened, node):
                return GONE
        finally:
            if opened is not None:
                opened.close()
        return Content(tree.encode_line(node), packs, node.size, is_whole)

    def _read_content(self, entry: Entry, opened: OpenFile, node: Node, packs: list[int]) -> bool:
        """Store a file's content; False when it changed meanwhile or could not be read to its end."""
        try:
            if opened.fd < 0:
                node.size = self._cut(opened.readinto, node.chunks, packs)
                return False
            if entry.stat.st_blocks * 512 >= entry.stat.st_size < MIN_CHUNK:
                node.size = self._read_small(opened.fd, entry.stat.st_size, node.chunks, packs)
            else:
                self._read_large(opened.fd, entry.stat, node, packs)
            return self._is_unchanged(entry, opened.fd, node)
        except OSError as error:
            node.chunks, node.holes, node.size = [], [], entry.stat.st_size
            node.error = error.strerror or str(error)
            self._note(Problem(entry.path, f"cannot be read: {node.error}", "unreadable"))
            return False

    def _read_small(self, descriptor: int, size: int, chunks: list[Chunk], packs: list[int]) -> int:
        """Read a file into the pack's own memory: no copy, and nothing to undo for a duplicate."""
        if size == 0:
            return 0
        slot = self._writer.slot(size)
        count = os.readv(descriptor, [slot])
        while count < size and (more := os.readv(descriptor, [slot[count:]])):
            count += more
        if count:
            chunk_id = hashlib.sha256(slot[:count]).digest()
            packs.append(self._writer.keep(chunk_id, count))
            chunks.append((chunk_id, count))
        return count

    def _read_large(self, descriptor: int, status: os.stat_result, node: Node, packs: list[int]) -> None:
        regions = [(0, status.st_size)]
        if status.st_blocks * 512 < status.st_size:
            found = data_regions(descriptor, status.st_size)
            if len(found) <= MAX_HOLES:
                regions = found
        os.lseek(descriptor, 0, os.SEEK_SET)
        stored = self._cut(_RegionReader(descriptor, regions).readinto, node.chunks, packs)
        node.holes = _holes(regions, status.st_size)
        node.size = stored + sum(length for _, length in node.holes)

    def _cut(self, readinto: Callable[[memoryview], int], chunks: list[Chunk], packs: list[int]) -> int:
        total = 0
        for content in self._chunker.chunks(readinto):
            chunk_id, number = self._writer.store(content)
            chunks.append((chunk_id, len(content)))
            if number not in packs[-2:]:
                packs.append(number)
            total += len(content)
        return total

    def _is_unchanged(self, entry: Entry, descriptor: int, node: Node) -> bool:
        after = os.fstat(descriptor)
        if signature_of(entry.stat) == signature_of(after) and node.size == after.st_size:
            return True
        node.mtime = after.st_mtime_ns
        self._note(Problem(entry.path, "changed while it was read; what was read is stored", "changed"))
        return False

    def _add_metadata(self, entry: Entry, opened: OpenFile | None, node: Node) -> bool:
        metadata = self._source.metadata(entry, opened)
        node.user, node.group = metadata.user or None, metadata.group or None
        if metadata.problem is not None:
            self._note(metadata.problem)
            if metadata.problem.kind == "vanished":
                return False
        if metadata.xattrs:
            node.xattrs = sorted(metadata.xattrs.items())
        if entry.kind == "symlink":
            node.target = metadata.target
        return True


class _RegionReader:
    """Reads the data regions of a file one after the other, as one stream."""

    def __init__(self, descriptor: int, regions: list[tuple[int, int]]) -> None:
        self._descriptor = descriptor
        self._regions = iter(regions)
        self._position = self._left = 0

    def readinto(self, buffer: memoryview) -> int:
        while self._left == 0:
            region = next(self._regions, None)
            if region is None:
                return 0
            self._position, self._left = region
        count = os.preadv(self._descriptor, [buffer[: self._left]], self._position)
        if count == 0:  # truncated meanwhile: the rest of this region, and of the file, is gone
            self._left, self._regions = 0, iter(())
        self._position += count
        self._left -= count
        return count


def _holes(regions: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    holes, position = [], 0
    for offset, length in regions:
        if offset > position:
            holes.append((position, offset - position))
        position = offset + length
    if position < size:
        holes.append((position, size - position))
    return holes


def _node(entry: Entry) -> Node:
    status = entry.stat
    special = entry.kind in ("char", "block")
    linked = status.st_nlink > 1 and entry.kind != "dir"
    return Node(
        path=entry.path,
        type=entry.kind,
        mode=status.st_mode & 0o7777,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=None if entry.is_parent else min(max(status.st_mtime_ns, tree.EARLIEST), tree.LATEST),
        size=status.st_size if entry.kind == "file" else 0,
        hardlink=f"{status.st_dev:x}:{status.st_ino:x}" if linked else None,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if special else None,
    )
