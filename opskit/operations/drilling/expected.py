"""What a restore must have made, taken down from the tree while the restore reads it, for other processes to check.

Invariants: every entry that is restored is taken down once, with all that the tree says of it; the tree is not read a
second time, and memory does not grow with it: the entries lie in unlinked files of the scratch, one for each process
that will check, in batches by turns, so that each has about as much to do. Names of a hard link after the first are
held against the first; contents are hashed once. Large files are cut, so that several processes share them. Ordinary
files of one chunk, which nearly all are, have a shorter record than the rest: (path, mode, uid, gid, mtime, size, id).
"""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from opskit.operations.restoring.pieces import pieces, spans
from opskit.repository.tree import Node

_BATCH_WORK = 4 * 1024 * 1024
_FILE_WORK = 40_000
"""What looking at an entry costs, in bytes that could be hashed meanwhile."""
_SHARE_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class Counts:
    """What was taken down; `unread` are entries whose content the backup could not read: there is none to restore."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    unread: int = 0
    unread_files: int = 0
    sized_wrong: int = 0
    """Files of which the tree contradicts itself."""


class Expected:
    """Takes entries down (`take`), then gives what each process has to check (`shares`)."""

    def __init__(self, folder: Path, processes: int) -> None:
        self.counts = Counts()
        self.tops: list[bytes] = []
        """The paths of the source, seen in the tree: entries below folders that are only their parents."""
        self._top = b"/"  # no path begins so
        self._files: list[IO[bytes]] = [tempfile.TemporaryFile(dir=folder) for _ in range(processes)]  # noqa: SIM115
        self._loads = [0] * processes
        self._batch: list[tuple[Any, ...]] = []
        self._work = 0
        self._first_of: dict[str, bytes] = {}

    def close(self) -> None:
        """Give the files up."""
        for file in self._files:
            file.close()

    def takes(self, wanted: Callable[[Node], bool]) -> Callable[[Node], bool]:
        """A filter for a restore: what `wanted` lets through, taken down; never what has no content to restore."""

        def take(node: Node) -> bool:
            if node.error is not None:
                self.counts.unread += 1
                self.counts.unread_files += node.type == "file"
                return False
            if not wanted(node):
                return False
            self.take(node)
            return True

        return take

    def take(self, node: Node) -> None:
        """Take one entry down, in the order of the tree."""
        counts, chunks = self.counts, node.chunks
        counts.entries += 1
        if not node.path.startswith(self._top) and node.mtime is not None:
            self.tops.append(node.path)
            self._top = node.path + b"/"
        if node.type == "file":
            counts.files += 1
            counts.bytes += node.size
            if len(chunks) == 1 and node.hardlink is None and not node.holes and not node.xattrs:
                record = (node.path, node.mode, node.uid, node.gid, node.mtime, node.size, chunks[0][0])
                self._add(record, node.size)
                return
        first = b""
        if node.hardlink is not None:
            known = self._first_of.setdefault(node.hardlink, node.path)
            first = known if known != node.path else b""
        about = (
            node.type, node.mode, node.uid, node.gid, node.mtime,
            node.size, node.target, node.device, node.xattrs, first,
        )  # fmt: skip
        if node.type != "file" or first:
            self._add((node.path, about, None, None), 0)
        elif len(chunks) == 1 and not node.holes:
            self._add((node.path, about, chunks[0][0], None), chunks[0][1])
        else:
            self._add_long(node, about)

    def _add_long(self, node: Node, about: tuple[Any, ...]) -> None:
        """A file of several chunks, or with holes: what it is with the first share of its content."""
        if sum(length for _, length in node.chunks) + sum(length for _, length in node.holes) != node.size:
            self.counts.sized_wrong += 1
        for number, share in enumerate(_shares(node)):
            size = sum(length for _, places in share for _, length in places)
            self._add((node.path, about if number == 0 else None, share, node.holes if number == 0 else None), size)

    def _add(self, record: tuple[Any, ...], size: int) -> None:
        self._batch.append(record)
        self._work += size + _FILE_WORK
        if self._work >= _BATCH_WORK:
            self._flush()

    def _flush(self) -> None:
        least = self._loads.index(min(self._loads))
        data = marshal.dumps(self._batch)
        self._files[least].write(len(data).to_bytes(8, "big"))
        self._files[least].write(data)
        self._loads[least] += self._work
        self._batch, self._work = [], 0

    def shares(self) -> list[IO[bytes]]:
        """For each process a file of marshalled batches, from its beginning."""
        if self._batch:
            self._flush()
        for file in self._files:
            file.flush()
            file.seek(0)
        return [file for file, load in zip(self._files, self._loads, strict=True) if load]


def _shares(node: Node) -> Iterator[list[tuple[bytes, list[tuple[int, int]]]]]:
    """The chunks of a file with the places of their bytes, in lists of about _SHARE_BYTES; one list at least."""
    share: list[tuple[bytes, list[tuple[int, int]]]] = []
    size = 0
    for chunk_id, position, length in pieces(node):
        share.append((chunk_id, list(spans(node, position, length))))
        size += length
        if size >= _SHARE_BYTES:
            yield share
            share, size = [], 0
    if share or not node.chunks:
        yield share
