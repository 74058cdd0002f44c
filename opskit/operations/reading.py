"""Reads one source into chunks and a tree: the hot loop of a backup.

Invariants:
- An entry whose signature equals the last tree's, and whose packs are all in this run's listings,
  is taken over without being opened; everything else is read anew.
- What cannot be read is recorded (in the tree where the entry exists, always in `problems`) and never
  stops the run. A source that fails as a whole raises SourceError and yields no tree.
- A file that may still change within the clock tick of its last change is never remembered as unchanged.
- Memory does not grow with the number of entries.

It does not know destinations, signatures or manifests.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from opskit.repository import lasttree, tree
from opskit.repository.chunker import MIN_CHUNK, Chunker
from opskit.repository.lasttree import Record, Signature, signature_of
from opskit.repository.tree import Chunk, Node, Root, TreeChunk, TreeCutter
from opskit.repository.writer import ChunkWriter
from opskit.sources.base import Entry, OpenFile, Problem, Source, data_regions

NEVER: Signature = (-1, 0, 0, 0, 0)
"""A signature no entry has: read it again next time."""
MAX_HOLES = 4096
"""A file with more holes is stored dense: it would cost more to list them."""
_CLOCK_TICK = 50_000_000
_COARSE_TICK = 2_100_000_000
_SECOND = 1_000_000_000


@dataclass(slots=True)
class Reading:
    """What was read of a source. `unreadable` counts files whose content is missing from the tree;
    `expected_bytes` is the last snapshot's size, for progress."""

    files: int = 0
    entries: int = 0
    total_bytes: int = 0
    expected_bytes: int | None = None
    unchanged: int = 0
    unreadable: int = 0
    problems: list[Problem] = field(default_factory=list)
    packs: set[int] = field(default_factory=set)
    chunks: list[tuple[bytes, int, int, bytes]] = field(default_factory=list)
    """Tree chunks: id, length, pack number, first path."""


class SourceReader:
    """Reads one source once; `reading` may be watched from another thread for progress."""

    def __init__(
        self,
        source: Source,
        writer: ChunkWriter,
        live: Callable[[int], bool],
        *,
        last: Iterator[Record],
        new_last: lasttree.Writer,
        clock_ns: Callable[[], int],
        force: bool,
    ) -> None:
        self._source, self._writer, self._live = source, writer, live
        self._last, self._new_last = last, new_last
        self._clock_ns, self._force = clock_ns, force
        self._record = next(last, None)
        self._cutter, self._chunker = TreeCutter(), Chunker()
        self.reading = Reading()

    def read(self) -> Reading:
        """Walk the source to its end; raises SourceError, StoreError (no copy works), CacheError."""
        reading, cutter, remember = self.reading, self._cutter, self._new_last.add
        for item in self._source.entries():
            if isinstance(item, Problem):
                self._note(item)
                continue
            status = item.stat
            record = self._find_last(item.path)
            if record is not None and record.signature == signature_of(status) and all(map(self._live, record.packs)):
                lines, raw = record.lines, record.raw
                reading.packs.update(record.packs)
                reading.unchanged += 1
                size = status.st_size
            else:
                lines, raw, size = self._read_plain(item) or self._read_entry(item)
                if not lines:
                    continue
            reading.entries += 1
            if item.kind == "file":
                reading.files += 1
                reading.total_bytes += size
            remember(raw)
            for piece in cutter.add(item.path, lines):
                self._store_piece(*piece)
        for piece in cutter.rest():
            self._store_piece(*piece)
        return reading

    def _find_last(self, path: bytes) -> Record | None:
        """The last tree's record for a path; both come in tree order, so each record is looked at once."""
        record = self._record
        if record is not None and record.path != path:
            wanted = tree.order(path)
            while record is not None and tree.order(record.path) < wanted:
                record = next(self._last, None)
            self._record = record
        if record is None or record.path != path:
            return None
        self._record = next(self._last, None)
        return None if self._force else record

    def _store_piece(self, first: bytes, piece: bytes) -> None:
        chunk_id, number = self._writer.store(piece, meta=True)
        self.reading.chunks.append((chunk_id, len(piece), number, first))
        self.reading.packs.add(number)

    def _note(self, problem: Problem) -> None:
        self.reading.problems.append(problem)
        if problem.kind == "unreadable":
            self.reading.unreadable += 1

    def _read_plain(self, entry: Entry) -> tuple[bytes, bytes, int] | None:
        """What `_read_entry` gives, sooner, for an ordinary small file; None where it is not one or just changed."""
        status = entry.stat
        size = status.st_size
        is_small = 0 < size < MIN_CHUNK and status.st_blocks * 512 >= size
        if entry.kind != "file" or status.st_nlink != 1 or not is_small or abs(status.st_mtime_ns) >= 2**63:
            return None
        opened = self._source.open(entry)
        if isinstance(opened, Problem):
            return None
        try:
            path = entry.path.decode()
            metadata = self._source.metadata(entry, opened)
            if metadata.xattrs or metadata.problem or not (metadata.user and metadata.group) or opened.fd < 0:
                return None
            slot = self._writer.slot(size)
            if os.readv(opened.fd, [slot]) != size or signature_of(os.fstat(opened.fd)) != signature_of(status):
                return None
        except (OSError, UnicodeDecodeError):
            return None
        finally:
            opened.close()
        chunk_id = hashlib.sha256(slot).digest()
        number = self._writer.keep(chunk_id, size)
        self.reading.packs.add(number)
        line = tree.plain_line(path, status, metadata.user, metadata.group, chunk_id)
        return line, lasttree.encode_record(entry.path, self._signature(entry), (number,), line), size

    def _read_entry(self, entry: Entry) -> tuple[bytes, bytes, int]:
        """(tree lines, last-tree record, bytes) of an entry read anew; empty when it vanished."""
        packs: list[int] = []
        opened: OpenFile | None = None
        node = _node(entry)
        signature = self._signature(entry)
        try:
            if entry.kind == "file":
                answer = self._source.open(entry)
                if isinstance(answer, Problem):
                    self._note(answer)
                    if answer.kind == "vanished":
                        return b"", b"", 0
                    node.error, signature = answer.message, NEVER
                else:
                    opened = answer
                    if not self._read_content(entry, opened, node, packs):
                        signature = NEVER
            if not self._add_metadata(entry, opened, node):
                return b"", b"", 0
        finally:
            if opened is not None:
                opened.close()
        lines = tree.encode_line(node)
        self.reading.packs.update(packs)
        return lines, lasttree.encode_record(entry.path, signature, packs, lines), node.size

    def _signature(self, entry: Entry) -> Signature:
        """What to remember the entry by; NEVER where a change after this read could go unseen."""
        status = entry.stat
        tick = _CLOCK_TICK if status.st_ctime_ns % _SECOND or status.st_mtime_ns % _SECOND else _COARSE_TICK
        storable = abs(status.st_mtime_ns) < 2**63  # ext4 has later times; their files are read every time
        if entry.is_parent or not storable or self._clock_ns() - status.st_ctime_ns < tick:
            return NEVER
        return signature_of(status)

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


def root_of(reading: Reading, config: str, keys: str, name_of: Callable[[int], str | None]) -> Root:
    """The root of a reading's tree, with packs by name (None: the root's own pack)."""
    chunks = [TreeChunk(chunk_id, length, name_of(number), first) for chunk_id, length, number, first in reading.chunks]
    problems = [(problem.path, problem.message) for problem in reading.problems[:1000]]
    return Root(chunks, problems, config, keys)
