"""The plan of a restore: which pack holds which piece of which file.

It lives in a private temporary SQLite database that spills to a file already unlinked, so a million
files do not need memory, and a killed restore leaves nothing behind. Packs come out in an order that
reads each exactly once.
"""

from __future__ import annotations

import marshal
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from opskit.repository.index import IndexedPack
from opskit.repository.tree import Node

_SCHEMA = """
CREATE TABLE files (no INTEGER PRIMARY KEY, line BLOB NOT NULL, whole INTEGER NOT NULL);
CREATE TABLE wants (id BLOB NOT NULL, file INTEGER NOT NULL, position INTEGER NOT NULL, length INTEGER NOT NULL);
CREATE TABLE packs (no INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE chunks (id BLOB PRIMARY KEY, pack INTEGER NOT NULL) WITHOUT ROWID;
"""
_BATCH = 10_000


class Want(NamedTuple):
    """A piece of a file: chunk id, its position and length in bytes, the file's number and entry.

    `whole` means that this chunk is all of the file's content.
    """

    chunk_id: bytes
    position: int
    length: int
    file: int
    node: Node
    whole: bool


class Plan:
    """Collect files, then chunks' places, then walk pack by pack."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("PRAGMA cache_size = -49152")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")
        self._files: list[tuple[int, bytes, bool]] = []
        self._wants: list[tuple[bytes, int, int, int]] = []
        self._count = 0

    def close(self) -> None:
        """Drop the plan."""
        self._db.close()

    def add(self, node: Node, *, whole: bool) -> int:
        """Plan a file; returns its number."""
        number = self._count
        self._count += 1
        self._files.append((number, _packed(node), whole))
        self._wants.extend((chunk_id, number, position, length) for chunk_id, position, length in pieces(node))
        if len(self._wants) >= _BATCH or len(self._files) >= _BATCH:
            self._flush()
        return number

    def _flush(self) -> None:
        self._db.executemany("INSERT INTO files VALUES (?, ?, ?)", self._files)
        self._db.executemany("INSERT INTO wants VALUES (?, ?, ?, ?)", self._wants)
        self._files, self._wants = [], []

    def locate(self, packs: Iterable[IndexedPack]) -> None:
        """Take in where chunks lie; of several places the first is used."""
        self._flush()
        for number, pack in enumerate(packs):
            self._db.execute("INSERT INTO packs VALUES (?, ?)", (number, pack.pack))
            self._db.executemany(
                "INSERT OR IGNORE INTO chunks VALUES (?, ?)", ((each, number) for each in pack.chunk_ids())
            )
        self._db.execute(
            "CREATE TABLE plan AS SELECT chunks.pack, wants.id, wants.position, wants.length, wants.file "
            "FROM wants LEFT JOIN chunks ON chunks.id = wants.id ORDER BY chunks.pack, wants.file"
        )
        self._db.execute("CREATE INDEX plan_pack ON plan (pack)")
        self._db.execute("DROP TABLE wants")
        self._db.execute("DROP TABLE chunks")

    def by_pack(self) -> Iterator[tuple[str, list[Want]]]:
        """(pack, wanted pieces) for each pack needed."""
        rows = self._db.execute("SELECT DISTINCT plan.pack, packs.name FROM plan JOIN packs ON packs.no = plan.pack")
        for number, name in rows.fetchall():
            yield name, self._wants_in("plan.pack = ?", (number,))

    def unlocated(self) -> list[Want]:
        """Pieces no readable pack holds."""
        return self._wants_in("plan.pack IS NULL", ())

    def _wants_in(self, condition: str, values: tuple[int, ...]) -> list[Want]:
        query = (
            "SELECT plan.id, plan.position, plan.length, plan.file, files.line, files.whole "
            f"FROM plan JOIN files ON files.no = plan.file WHERE {condition} ORDER BY plan.file, plan.position"
        )
        return [
            Want(chunk_id, position, length, file, _unpacked(line), bool(whole))
            for chunk_id, position, length, file, line, whole in self._db.execute(query, values)
        ]


def _packed(node: Node) -> bytes:
    """What writing a file still needs of its entry. Only this process reads it, so marshal is safe, and quick."""
    owner = (node.uid, node.gid, node.user, node.group)
    return marshal.dumps((node.path, node.mode, owner, node.mtime, node.size, node.holes, node.xattrs))


def _unpacked(data: bytes) -> Node:
    path, mode, (uid, gid, user, group), mtime, size, holes, xattrs = marshal.loads(data)
    return Node(path, "file", mode, uid, gid, user, group, mtime, size, holes=holes, xattrs=xattrs)


def pieces(node: Node) -> Iterator[tuple[bytes, int, int]]:
    """(chunk id, position in the file, length) of a file's chunks, which lie between its holes."""
    holes = iter(sorted(node.holes))
    hole = next(holes, None)
    position = 0
    for chunk_id, length in node.chunks:
        # a chunk may span several data regions: it is then written in pieces by the target
        while hole is not None and hole[0] == position:
            position += hole[1]
            hole = next(holes, None)
        yield chunk_id, position, length
        rest = length
        while hole is not None and hole[0] < position + rest:
            rest -= hole[0] - position
            position = hole[0] + hole[1]
            hole = next(holes, None)
        position += rest


def spans(node: Node, position: int, length: int) -> Iterator[tuple[int, int]]:
    """(position, length) of the parts of a chunk that starts at `position`, cut where holes lie between."""
    for offset, size in sorted(node.holes):
        if offset + size <= position or length == 0:
            continue
        if offset >= position + length:
            break
        if offset > position:
            yield position, offset - position
            length -= offset - position
        position = offset + size
    if length:
        yield position, length
