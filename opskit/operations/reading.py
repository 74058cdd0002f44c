"""Reads one source into chunks and a tree: the hot loop of a backup.

Invariants:
- An entry whose signature equals the last tree's, and whose packs are all in this run's listings,
  is taken over without being opened; everything else is read anew.
- What cannot be read is recorded (in the tree where the entry exists, always in `problems`) and never
  stops the run. A source that fails as a whole raises SourceError and yields no tree.
- A file that may still change within the clock tick of its last change is never remembered as unchanged.
- Memory does not grow with the number of entries.

Nearly all entries are plain: small files and folders with nothing special. They take a short way, which gives the
same bytes as `contents`, the thorough one, and leaves to it whatever turns out not to be plain.
It does not know destinations, signatures or manifests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from opskit.operations.contents import EntryReader
from opskit.repository import lasttree, tree
from opskit.repository.chunker import MIN_CHUNK
from opskit.repository.lasttree import NEVER, Record, Signature, signature_of
from opskit.repository.tree import Root, TreeChunk, TreeCutter
from opskit.repository.writer import ChunkWriter
from opskit.sources.base import Entry, Problem, SmallReader, Source

_CLOCK_TICK = 50_000_000
_COARSE_TICK = 2_100_000_000
_SECOND = 1_000_000_000

_Read = tuple[bytes, bytes, int]
"""An entry read anew: tree lines (empty: it vanished), record for the last tree, size in bytes."""


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

    def note(self, problem: Problem) -> None:
        """Keep a problem, and count it where content is missing."""
        self.problems.append(problem)
        if problem.kind == "unreadable":
            self.unreadable += 1


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
        self._last: Iterator[Record] = iter(()) if force else last
        self._new_last = new_last
        self._clock_ns = clock_ns
        self._record = next(self._last, None)
        self._small = source if isinstance(source, SmallReader) else None
        self.reading = Reading()
        self._thorough = EntryReader(source, writer, self.reading.note)

    def read(self) -> Reading:
        """Walk the source to its end; raises SourceError, StoreError (no copy works), CacheError."""
        reading, cutter, remember = self.reading, TreeCutter(), self._new_last.add
        for item in self._source.entries():
            if isinstance(item, Problem):
                reading.note(item)
                continue
            path, kind, status, _ = item
            signature = signature_of(status)
            record = self._record
            if record is not None:
                record = self._find_last(record, path)
            if record is not None and record.signature == signature and self._is_stored(record.packs):
                lines, raw, size = record.lines, record.raw, status.st_size
                reading.unchanged += 1
            else:
                lines, raw, size = self._read_plain(item, signature) or self._read_entry(item, signature)
                if not lines:
                    continue
            reading.entries += 1
            if kind == "file":
                reading.files += 1
                reading.total_bytes += size
            remember(raw)
            for piece in cutter.add(path, lines):
                self._store_piece(*piece)
        for piece in cutter.rest():
            self._store_piece(*piece)
        return reading

    def _find_last(self, record: Record, path: bytes) -> Record | None:
        """The last tree's record for a path; both come in tree order, so each record is looked at once."""
        if record.path == path:
            self._record = next(self._last, None)
            return record
        wanted = tree.order(path)
        following: Record | None = record
        while following is not None and tree.order(following.path) < wanted:
            following = next(self._last, None)
        self._record = following
        return None if following is None or following.path != path else self._find_last(following, path)

    def _is_stored(self, packs: tuple[int, ...]) -> bool:
        """Whether all packs are in this run's listings; those used once in this run need no second look."""
        used = self.reading.packs
        if not used.issuperset(packs):
            if not all(map(self._live, packs)):
                return False
            used.update(packs)
        return True

    def _store_piece(self, first: bytes, piece: bytes) -> None:
        chunk_id, number = self._writer.store(piece, meta=True)
        self.reading.chunks.append((chunk_id, len(piece), number, first))
        self.reading.packs.add(number)

    def _read_entry(self, entry: Entry, signature: Signature) -> _Read:
        """Any entry, thoroughly."""
        lines, packs, size, is_whole = self._thorough.read(entry)
        self.reading.packs.update(packs)
        remembered = self._settled(entry, signature) if is_whole else NEVER
        return lines, lasttree.encode_record(entry.path, remembered, packs, lines), size

    def _read_plain(self, entry: Entry, signature: Signature) -> _Read | None:
        """What `_read_entry` gives, sooner, for an ordinary file or folder; None where it is not one."""
        status = entry.stat
        try:
            path = entry.path.decode()
        except UnicodeDecodeError:
            return None
        if not tree.EARLIEST <= status.st_mtime_ns <= tree.LATEST:
            return None
        if entry.kind == "dir":
            return self._read_plain_folder(entry, path, signature)
        size = status.st_size
        is_one_chunk = 0 < size < MIN_CHUNK and status.st_blocks * 512 >= size
        if entry.kind != "file" or status.st_nlink != 1 or not is_one_chunk or self._small is None:
            return None
        slot = self._writer.slot(size)
        small = self._small.read_small(entry, slot)
        if small is None or signature_of(small.after) != signature:
            return None
        chunk_id = hashlib.sha256(slot).digest()
        number = self._writer.keep(chunk_id, size)
        self.reading.packs.add(number)
        line = tree.plain_line(path, status, small.user, small.group, chunk_id)
        return line, lasttree.encode_plain(entry.path, self._settled(entry, signature), number, line), size

    def _read_plain_folder(self, entry: Entry, path: str, signature: Signature) -> _Read | None:
        metadata = self._source.metadata(entry)
        if entry.is_parent or metadata.xattrs or metadata.problem or not (metadata.user and metadata.group):
            return None
        line = tree.plain_folder_line(path, entry.stat, metadata.user, metadata.group)
        return line, lasttree.encode_record(entry.path, self._settled(entry, signature), (), line), 0

    def _settled(self, entry: Entry, signature: Signature) -> Signature:
        """What to remember the entry by; NEVER where a change after this read could go unseen."""
        status = entry.stat
        age = self._clock_ns() - status.st_ctime_ns
        if age < _COARSE_TICK:
            is_exact = status.st_ctime_ns % _SECOND or status.st_mtime_ns % _SECOND
            if age < (_CLOCK_TICK if is_exact else _COARSE_TICK):
                return NEVER
        return NEVER if entry.is_parent else signature


def root_of(reading: Reading, config: str, keys: str, name_of: Callable[[int], str | None]) -> Root:
    """The root of a reading's tree, with packs by name (None: the root's own pack)."""
    chunks = [TreeChunk(chunk_id, length, name_of(number), first) for chunk_id, length, number, first in reading.chunks]
    problems = [(problem.path, problem.message) for problem in reading.problems[:1000]]
    return Root(chunks, problems, config, keys)
