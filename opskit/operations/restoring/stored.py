"""The plan of a large restore: which pack holds which piece of which file, kept out of memory.

It lives in a private temporary SQLite database that spills to a file already unlinked, so a million
files do not need memory, and a killed restore leaves nothing behind.
"""

from __future__ import annotations

import marshal
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from opskit.errors import OpskitError
from opskit.operations.restoring.pieces import Want
from opskit.repository.index import IndexedPack
from opskit.repository.tree import Node

_SCHEMA = """
CREATE TABLE files (no INTEGER PRIMARY KEY, line BLOB NOT NULL, whole INTEGER NOT NULL);
CREATE TABLE wants (id BLOB NOT NULL, file INTEGER NOT NULL, position INTEGER NOT NULL, length INTEGER NOT NULL);
CREATE TABLE packs (no INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE chunks (id BLOB PRIMARY KEY, pack INTEGER NOT NULL) WITHOUT ROWID;
"""


class StoredPlan:
    """Take in pieces, then chunks' places, then walk pack by pack."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        with _translated():
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute("PRAGMA cache_size = -49152")
            self._db.executescript(_SCHEMA)
            self._db.execute("BEGIN")
        self._last = -1

    def close(self) -> None:
        """Drop the plan."""
        self._db.close()

    def add(self, wants: Iterable[Want]) -> None:
        """Take in pieces, those of one file together."""
        files, pieces = [], []
        for chunk_id, position, length, file, node, whole in wants:
            if file != self._last:
                self._last = file
                files.append((file, _packed(node), whole))
            pieces.append((chunk_id, file, position, length))
        with _translated():
            self._db.executemany("INSERT INTO files VALUES (?, ?, ?)", files)
            self._db.executemany("INSERT INTO wants VALUES (?, ?, ?, ?)", pieces)

    def locate(self, packs: Iterable[IndexedPack]) -> None:
        """Take in where chunks lie; of several places the first is used."""
        for number, pack in enumerate(packs):
            with _translated():
                self._db.execute("INSERT INTO packs VALUES (?, ?)", (number, pack.pack))
                self._db.executemany(
                    "INSERT OR IGNORE INTO chunks VALUES (?, ?)", ((each, number) for each in pack.chunk_ids())
                )
        with _translated():
            self._db.execute(
                "CREATE TABLE plan AS SELECT chunks.pack, wants.id, wants.position, wants.length, wants.file "
                "FROM wants LEFT JOIN chunks ON chunks.id = wants.id ORDER BY chunks.pack, wants.file"
            )
            self._db.execute("CREATE INDEX plan_pack ON plan (pack)")
            self._db.execute("DROP TABLE wants")
            self._db.execute("DROP TABLE chunks")

    def by_pack(self, without: Collection[str]) -> Iterator[tuple[str, list[Want]]]:
        """(pack, wanted pieces) for each pack needed and not in `without`."""
        query = "SELECT DISTINCT plan.pack, packs.name FROM plan JOIN packs ON packs.no = plan.pack"
        with _translated():
            rows = self._db.execute(query).fetchall()
        for number, name in rows:
            if name not in without:
                yield name, self._wants_in("plan.pack = ?", (number,))

    def wants(self, name: str) -> list[Want]:
        """The wanted pieces of one pack."""
        return self._wants_in("plan.pack = (SELECT no FROM packs WHERE name = ?)", (name,))

    def unlocated(self) -> list[Want]:
        """Pieces no readable pack holds."""
        return self._wants_in("plan.pack IS NULL", ())

    def _wants_in(self, condition: str, values: tuple[int | str, ...]) -> list[Want]:
        query = (
            "SELECT plan.id, plan.position, plan.length, plan.file, files.line, files.whole "
            f"FROM plan JOIN files ON files.no = plan.file WHERE {condition} ORDER BY plan.file, plan.position"
        )
        with _translated():
            rows = self._db.execute(query, values).fetchall()
        return [
            Want(chunk_id, position, length, file, _unpacked(line), bool(whole))
            for chunk_id, position, length, file, line, whole in rows
        ]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise OpskitError(
            f"the plan of this restore cannot be kept in a temporary file: {error}",
            hint="it takes about 200 bytes a file: make room in /var/tmp, or point SQLITE_TMPDIR to where there is",
        ) from error


def _packed(node: Node) -> bytes:
    """What writing a file still needs of its entry. Only this process reads it, so marshal is safe, and quick."""
    owner = (node.uid, node.gid, node.user, node.group)
    return marshal.dumps((node.path, node.mode, owner, node.mtime, node.size, node.holes, node.xattrs, node.hardlink))


def _unpacked(data: bytes) -> Node:
    path, mode, (uid, gid, user, group), mtime, size, holes, xattrs, hardlink = marshal.loads(data)
    return Node(path, "file", mode, uid, gid, user, group, mtime, size, hardlink=hardlink, holes=holes, xattrs=xattrs)
