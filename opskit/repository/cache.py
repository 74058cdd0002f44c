"""The host's cache of one repository: which chunk is said to lie in which pack, and verified manifests.

Invariants:
- Disposable: everything in it can be rebuilt from the copies with the host key; losing it costs time.
- It claims, listings decide: a chunk counts as present only if its pack is in a listing taken in this
  run. So rows are written *before* the pack is put, and a crash in between is harmless.
- Each row carries a checksum, so a flipped bit in the file makes a chunk absent (and stored again)
  instead of making a snapshot point to the wrong pack.
- One thread, the reader's, uses it: SQLite calls hand over the interpreter lock at every row.

Not here: the last tree (module `lasttree`), and anything that must survive (module `heads`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from opskit import encoding
from opskit.errors import CacheError
from opskit.repository.filter import Filter
from opskit.repository.index import Index, IndexedPack

_VERSION = "4"
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, check_sum INTEGER NOT NULL);
CREATE TABLE packs (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, run INTEGER NOT NULL,
                    stored INTEGER NOT NULL, content INTEGER NOT NULL, check_sum INTEGER NOT NULL);
CREATE TABLE indexes (name TEXT NOT NULL, run INTEGER NOT NULL, pack INTEGER NOT NULL,
                      PRIMARY KEY (name, pack)) WITHOUT ROWID;
CREATE TABLE chunks (id BLOB NOT NULL, pack INTEGER NOT NULL, check_sum BLOB NOT NULL,
                     PRIMARY KEY (id, pack)) WITHOUT ROWID;
CREATE TABLE sizes (name TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE members (pack INTEGER PRIMARY KEY, ids BLOB NOT NULL, check_sum INTEGER NOT NULL);
CREATE TABLE manifests (name TEXT PRIMARY KEY, signer TEXT NOT NULL, payload BLOB NOT NULL,
                        check_sum INTEGER NOT NULL) WITHOUT ROWID;
"""

_KEY_IDS = "CREATE TABLE IF NOT EXISTS key_ids (name TEXT PRIMARY KEY, ids TEXT NOT NULL) WITHOUT ROWID"
"""Came later: a cache without it is as good."""

_ADD_CHUNKS = """
WITH RECURSIVE row (no) AS (SELECT 0 UNION ALL SELECT no + 1 FROM row WHERE no + 1 < :count)
INSERT OR REPLACE INTO chunks SELECT substr(:joined, no * 36 + 1, 32), :pack, substr(:joined, no * 36 + 33, 4) FROM row
"""
"""From one value that joins ids and check sums: a call for each row would hand over the interpreter lock each time."""


_SHARING = """
SELECT DISTINCT other.pack FROM chunks one JOIN chunks other USING (id)
WHERE one.pack IN (SELECT value FROM json_each(?))
"""

FOREIGN = -1
"""Stands for the packs of an index object that this host's key does not open."""


class PackRow(NamedTuple):
    """A pack as the cache knows it; sizes in bytes, `run` a row number."""

    no: int
    name: str
    run: int
    stored: int
    content: int


class RunRow(NamedTuple):
    """A run: its id, and the digest of its key object."""

    no: int
    id: str
    key: str


class Cache:
    """An open cache file; every method raises CacheError when the file turns out to be corrupt."""

    def __init__(self, path: Path, repository: str) -> None:
        self._path = path
        with _translated():
            self._db = _open(path, repository)
            self._find = self._db.cursor()
            row = self._db.execute("SELECT max(no) FROM packs").fetchone()
            self._next_pack = (row[0] or 0) + 1
            is_empty = self._db.execute("SELECT 1 FROM chunks LIMIT 1").fetchone() is None
        # In a first backup nearly every chunk is new: the filter answers for most of them without a query.
        self._filter = Filter() if is_empty else None

    def close(self) -> None:
        """Write what is pending and close."""
        with _translated():
            self._db.commit()
            self._db.close()

    def generation(self, source: str) -> str | None:
        """The token under which the last tree of a source was remembered; None when none was.

        A last tree with another token was written beside another cache, or a later state of this one: the
        pack numbers in it mean nothing here.
        """
        with _translated():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (f"tree-{source}",)).fetchone()
        return None if row is None else str(row[0])

    def new_generation(self, source: str) -> str:
        """A new token for the last tree of a source, noted after the packs it refers to."""
        token = os.urandom(8).hex()
        with _translated():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"tree-{source}", token))
            self._db.commit()
        return token

    def find(self, chunk_id: bytes, live: Container[int]) -> int | None:
        """The number of the newest live pack said to hold a chunk, or None; in older ones it is less gathered."""
        if self._filter is not None and chunk_id not in self._filter:
            return None
        try:  # not the context manager: this runs once a chunk
            rows = self._find.execute("SELECT pack, check_sum FROM chunks WHERE id = ?", (chunk_id,)).fetchall()
            for pack, check_sum in reversed(rows):
                if pack in live and check_sum == _chunk_sum(chunk_id, pack):
                    return int(pack)
        except (sqlite3.Error, TypeError) as error:
            raise CacheError(f"the cache is unusable: {error}") from error
        return None

    def new_pack_number(self) -> int:
        """A number for a pack about to be filled."""
        self._next_pack += 1
        return self._next_pack - 1

    def add_run(self, run_id: str, key: str) -> int:
        """Note a run and its key object; returns its row number (the old one if known)."""
        with _translated():
            row = self._db.execute("SELECT no FROM runs WHERE id = ?", (run_id,)).fetchone()
            if row is None:
                row = self._db.execute("SELECT coalesce(max(no), 0) + 1 FROM runs").fetchone()
                values = RunRow(int(row[0]), run_id, key)
                self._db.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (*values, _row_sum(values)))
                self._db.commit()
            return int(row[0])

    def add_pack(self, row: PackRow, ids: Sequence[bytes]) -> None:
        """Note a sealed pack that no index object describes yet, before it is put; survives a crash of opskit."""
        self._insert_pack(row, ids)
        with _translated():
            joined = b"".join(ids)
            self._db.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?)", (row.no, joined, zlib.crc32(joined)))
            self._db.commit()

    def _insert_pack(self, row: PackRow, ids: Iterable[bytes]) -> None:
        ids = sorted(ids)
        if self._filter is not None:
            self._filter.update(ids)
        with _translated():
            self._db.execute("INSERT OR REPLACE INTO packs VALUES (?, ?, ?, ?, ?, ?)", (*row, _row_sum(row)))
            if ids:
                joined = b"".join([chunk_id + _chunk_sum(chunk_id, row.no) for chunk_id in ids])
                self._db.execute(_ADD_CHUNKS, {"joined": joined, "pack": row.no, "count": len(ids)})

    def add_index(self, name: str, run: int, packs: Sequence[int]) -> None:
        """Note that index object `name` describes these packs, before it is put."""
        with _translated():
            self._db.executemany("INSERT OR REPLACE INTO indexes VALUES (?, ?, ?)", [(name, run, no) for no in packs])
            self._db.commit()

    def load_index(self, name: str, index: Index) -> None:
        """Take in a verified index object."""
        writer = self.add_run(index.run, index.key)
        numbers = []
        for row, pack in self._rows(index):
            self._insert_pack(row, pack.chunk_ids())
            numbers.append(row.no)
        self.add_index(name, writer, numbers)

    def adopt_index(self, name: str, index: Index) -> None:
        """Take in a verified index object that this host's key does not open: its packs want another one."""
        for row, pack in self._rows(index):
            self.add_pack(row, list(pack.chunk_ids()))
        self.add_index(name, 0, [FOREIGN])

    def _rows(self, index: Index) -> Iterator[tuple[PackRow, IndexedPack]]:
        runs = {pack.run: self.add_run(pack.run, pack.key) for pack in index.packs}
        known = {row.name: row.no for row in self.packs()}
        for pack in index.packs:
            number = known.get(pack.pack) or self.new_pack_number()
            yield PackRow(number, pack.pack, runs[pack.run], pack.stored, pack.content), pack

    def packs(self) -> Iterator[PackRow]:
        """All packs whose rows are sound."""
        with _translated():
            rows = self._db.execute("SELECT no, name, run, stored, content, check_sum FROM packs").fetchall()
        for *values, check_sum in rows:
            row = PackRow(*values)
            if check_sum == _row_sum(row):
                yield row

    def packs_sharing(self, packs: Iterable[int]) -> set[int]:
        """The packs that hold a chunk of one of these, themselves included."""
        numbers = encoding.encode(sorted(packs)).decode()
        with _translated():
            return {int(pack) for (pack,) in self._db.execute(_SHARING, (numbers,))}

    def indexes(self) -> dict[int, list[tuple[str, int]]]:
        """Pack number → (index object, number of the run that wrote it)."""
        found: dict[int, list[tuple[str, int]]] = {}
        with _translated():
            for name, run, pack in self._db.execute("SELECT name, run, pack FROM indexes"):
                found.setdefault(pack, []).append((name, run))
        return found

    def index_names(self) -> set[str]:
        """Digests of all index objects taken in."""
        with _translated():
            return {name for (name,) in self._db.execute("SELECT DISTINCT name FROM indexes")}

    def unindexed_ids(self, pack: int) -> bytes | None:
        """The joined chunk ids of a pack noted by `add_pack`, or None."""
        with _translated():
            row = self._db.execute("SELECT ids, check_sum FROM members WHERE pack = ?", (pack,)).fetchone()
            return None if row is None or zlib.crc32(row[0]) != row[1] else bytes(row[0])

    def forget_unindexed(self, packs: Iterable[int]) -> None:
        """Drop the id lists of packs whose index object has reached a copy."""
        with _translated():
            self._db.executemany("DELETE FROM members WHERE pack = ?", [(no,) for no in packs])
            self._db.commit()

    def runs(self) -> dict[int, RunRow]:
        """All runs whose rows are sound, by row number."""
        with _translated():
            rows = self._db.execute("SELECT no, id, key, check_sum FROM runs").fetchall()
        runs = ((RunRow(*values), check_sum) for *values, check_sum in rows)
        return {run.no: run for run, check_sum in runs if check_sum == _row_sum(run)}

    def add_size(self, name: str, size: int) -> None:
        """Note the size in bytes of an object about to be put, so a torn one shows in a listing."""
        with _translated():
            self._db.execute("INSERT OR REPLACE INTO sizes VALUES (?, ?)", (name, size))
            self._db.commit()

    def sizes(self) -> dict[str, int]:
        """The sizes noted, by object name."""
        with _translated():
            return dict(self._db.execute("SELECT name, size FROM sizes"))

    def manifest(self, name: str) -> tuple[str, bytes] | None:
        """(signer, payload) of a manifest verified before, by object name."""
        with _translated():
            row = self._db.execute(
                "SELECT signer, payload, check_sum FROM manifests WHERE name = ?", (name,)
            ).fetchone()
            if row is None or row[2] != zlib.crc32(row[1]):
                return None
            return str(row[0]), bytes(row[1])

    def key_ids(self) -> dict[str, tuple[str, ...]]:
        """To which key ids key objects are encrypted, by name, as far as they were looked at."""
        with _translated():
            self._db.execute(_KEY_IDS)
            found = self._db.execute("SELECT name, ids FROM key_ids").fetchall()
        return {str(name): tuple(str(ids).split()) for name, ids in found}

    def add_key_ids(self, name: str, ids: Sequence[str]) -> None:
        """Remember to whom a key object is encrypted."""
        with _translated():
            self._db.execute(_KEY_IDS)
            self._db.execute("INSERT OR REPLACE INTO key_ids VALUES (?, ?)", (name, " ".join(ids)))
            self._db.commit()

    def manifests(self) -> list[tuple[str, str, bytes]]:
        """(name, signer, payload) of all manifests verified before, by name."""
        with _translated():
            rows = self._db.execute(
                "SELECT name, signer, payload, check_sum FROM manifests WHERE name GLOB 'snapshots/*' ORDER BY name"
            ).fetchall()
        return [
            (str(name), str(signer), bytes(data)) for name, signer, data, check in rows if check == zlib.crc32(data)
        ]

    def add_manifest(self, name: str, signer: str, payload: bytes) -> None:
        """Remember a verified manifest."""
        with _translated():
            self._db.execute(
                "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?)", (name, signer, payload, zlib.crc32(payload))
            )
            self._db.commit()


def _open(path: Path, repository: str) -> sqlite3.Connection:
    """Open or create the file; a cache of another repository or version is thrown away."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    db = sqlite3.connect(path, isolation_level="DEFERRED")
    # Power loss may corrupt a cache without fsync; then it is rebuilt. kill -9 of opskit loses nothing.
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA cache_size = -32768")
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        db.executescript(_SCHEMA)
        db.executemany("INSERT INTO meta VALUES (?, ?)", [("version", _VERSION), ("repository", repository)])
        db.commit()
    found = dict(db.execute("SELECT key, value FROM meta WHERE key NOT LIKE 'tree-%'"))
    if found != {"version": _VERSION, "repository": repository}:
        db.close()
        raise CacheError(f"cache {path} is of another repository or version: {found}")
    return db


def open_or_replace(path: Path, repository: str) -> Cache:
    """Open the cache; one that is corrupt or foreign is deleted and starts empty, one in use is neither."""
    try:
        return Cache(path, repository)
    except CacheError as error:
        if isinstance(error.__cause__, sqlite3.OperationalError) and "locked" in str(error.__cause__):
            raise
        remove(path)
        return Cache(path, repository)


def remove(path: Path) -> None:
    """Delete a cache file and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _chunk_sum(chunk_id: bytes, pack: int) -> bytes:
    return zlib.crc32(chunk_id, pack & 0xFFFFFFFF).to_bytes(4, "big")


def _row_sum(row: PackRow | RunRow) -> int:
    return zlib.crc32(repr(tuple(row)).encode())


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """SQLite's errors, and those of values no run wrote, as CacheError."""
    try:
        yield
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise CacheError(
            f"the cache is unusable: {error}",
            hint="it lies in state_dir: see that there is space, and that opskit may write there",
        ) from error
