"""The ledger of one repository: when each pack was last read back whole and found good, at which copy.

Invariants:
- It claims only what was noted: a row counts while its check sum fits the repository, the copy id, the pack's hash and
  the times in it. A row that was torn, moved to another copy or dated in the future counts for nothing.
- Each row says how many bytes the pack had: one that has another size now is not what was read.
- It is state that may be lost: then every pack counts as never read back, and is read again.
- Rows are written a few packs at a time, so a run that is killed keeps what it read.
- `seen` of a pack is no later than when it came to the copy: the beginning of the run before the one that found it,
  runs aside in whose listing something was missing: it may have been there.

Packs alone are in it: everything else at a copy is small, and read in every run. Who may write the state folder can
write this file too; it protects against accidents, not against an intruder on this host.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from opskit.errors import OpskitError

_VERSION = "2"
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE packs (copy TEXT NOT NULL, digest BLOB NOT NULL, seen INTEGER NOT NULL, read INTEGER NOT NULL,
                    word INTEGER NOT NULL, bad INTEGER NOT NULL, size INTEGER NOT NULL, check_sum BLOB NOT NULL,
                    PRIMARY KEY (copy, digest)) WITHOUT ROWID;
CREATE TABLE runs (copy TEXT NOT NULL, begun INTEGER NOT NULL, total INTEGER NOT NULL, read INTEGER NOT NULL,
                   check_sum BLOB NOT NULL, PRIMARY KEY (copy, begun)) WITHOUT ROWID;
"""
RUNS_KEPT = 1000
CLOCKS_APART = 300
"""Seconds by which a row may be dated ahead."""


class Entry(NamedTuple):
    """What is known of one pack at one copy; times in seconds since the epoch, 0 for never.

    It came there after `seen`, was `read` back whole and good, and the store gave its `word` for it. `is_bad`: it was
    damaged when it was last read, or is not what was read. `size` is in bytes, as it was listed.
    """

    seen: int
    read: int = 0
    word: int = 0
    is_bad: bool = False
    size: int = 0


class Run(NamedTuple):
    """One run of `verify` at a copy: when it began, how many bytes of packs lay there, how many it read back."""

    begun: int
    total: int
    read: int


class Ledger:
    """The open file; every method raises OpskitError where it cannot be used."""

    def __init__(self, path: Path, repository: str) -> None:
        """Open or create it; a file that is damaged, or of another repository, is set aside."""
        self._repository = repository
        self.lost: str | None = None
        """Says so when the file was set aside."""
        with _translated(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._db = _open(path, repository)
            except _Unusable as error:
                aside = path.with_suffix(".damaged")
                for suffix in ("-wal", "-shm", "-journal"):
                    Path(f"{path}{suffix}").unlink(missing_ok=True)
                os.replace(path, aside)
                self.lost = f"{path} {error} (now {aside}): every pack counts as never read back until it is read again"
                self._db = _open(path, repository)
        self._path = path

    def close(self) -> None:
        """Close it."""
        with _translated(self._path):
            self._db.close()

    def entries(self, copy: str, now: int) -> dict[bytes, Entry]:
        """What is known of the packs of a copy, by their SHA-256."""
        found = {}
        with _translated(self._path):
            rows = self._db.execute(
                "SELECT digest, seen, read, word, bad, size, check_sum FROM packs WHERE copy = ?", (copy,)
            )
            for digest, seen, read, word, bad, size, check_sum in rows:
                entry = Entry(seen, read, word, bool(bad), size)
                is_sound = check_sum == self._sum(copy, digest, *entry)  # so its values have the right types, too
                if is_sound and max(seen, read, word) <= now + CLOCKS_APART:
                    found[digest] = entry
        return found

    def runs(self, copy: str, now: int) -> list[Run]:
        """The runs at a copy, oldest first."""
        with _translated(self._path):
            rows = self._db.execute(
                "SELECT begun, total, read, check_sum FROM runs WHERE copy = ? ORDER BY begun", (copy,)
            ).fetchall()
        runs = [(Run(*values), check_sum) for *values, check_sum in rows]
        return [
            run for run, check_sum in runs if check_sum == self._sum(copy, *run) and run.begun <= now + CLOCKS_APART
        ]

    def begin(self, copy: str, run: Run, new: Iterable[tuple[bytes, Entry]], gone: Iterable[bytes]) -> None:
        """Note a run that begins, the packs that are new to the ledger, and forget those that are there no more."""
        with _translated(self._path), self._db:
            self._put(copy, new)
            self._db.executemany("DELETE FROM packs WHERE copy = ? AND digest = ?", [(copy, each) for each in gone])
            self._put_run(copy, run)
            self._db.execute(
                "DELETE FROM runs WHERE copy = :copy AND begun NOT IN "
                "(SELECT begun FROM runs WHERE copy = :copy ORDER BY begun DESC LIMIT :kept)",
                {"copy": copy, "kept": RUNS_KEPT},
            )

    def note(self, copy: str, run: Run, entries: Mapping[bytes, Entry]) -> None:
        """Note what became of some packs, and what the run came to so far."""
        with _translated(self._path), self._db:
            self._put(copy, entries.items())
            self._put_run(copy, run)

    def forget(self, copy: str, run: Run) -> None:
        """Take back that there was a run; what it noted of packs stays."""
        with _translated(self._path), self._db:
            self._db.execute("DELETE FROM runs WHERE copy = ? AND begun = ?", (copy, run.begun))

    def _put(self, copy: str, entries: Iterable[tuple[bytes, Entry]]) -> None:
        rows = ((copy, digest, *each, self._sum(copy, digest, *each)) for digest, each in entries)
        self._db.executemany("INSERT OR REPLACE INTO packs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _put_run(self, copy: str, run: Run) -> None:
        self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)", (copy, *run, self._sum(copy, *run)))

    def _sum(self, copy: str, *values: object) -> bytes:
        return blake2b(repr((self._repository, copy, *values)).encode(), digest_size=8).digest()


def place(state: Path, repository: str) -> Path:
    """Where the ledger of one repository lies in a host's state folder."""
    return state / "readback" / f"{repository}.sqlite"


class _Unusable(Exception):
    """The file is no ledger of this repository."""


def _open(path: Path, repository: str) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=30)
    try:
        # Without syncs, which cost more than all the rest: after a power cut the file may be spoilt. That shows below,
        # or in the check sums of the rows. kill -9 of opskit loses nothing that was committed.
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA journal_mode = WAL")
        (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise _Unusable(f"was damaged: {sound}")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            db.executescript(_SCHEMA)
            with db:
                db.executemany("INSERT INTO meta VALUES (?, ?)", [("version", _VERSION), ("repository", repository)])
        found = dict(db.execute("SELECT key, value FROM meta"))
        if found != {"version": _VERSION, "repository": repository}:
            raise _Unusable("is of another repository or version")
        db.execute("SELECT copy, digest, seen, read, word, bad, size, check_sum FROM packs LIMIT 1").fetchone()
        db.execute("SELECT copy, begun, total, read, check_sum FROM runs LIMIT 1").fetchone()
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.DatabaseError) and not _is_passing(error):
            raise _Unusable(f"was damaged: {error}") from error
        raise
    return db


def _is_passing(error: sqlite3.Error) -> bool:
    """Whether the file itself may be fine: locked, no space, not writable."""
    return getattr(error, "sqlite_errorname", "").startswith(
        ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")
    )


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise OpskitError(
            f"the ledger {path} cannot be used: {error}",
            hint="see that there is space in state_dir, and that opskit may write there; the file may be removed: then "
            "everything counts as never read back",
        ) from error
