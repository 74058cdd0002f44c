"""The journal of rotations: what was intended, what came of it, and where each item stands, in one SQLite file.

Every commit is on the disk before the call returns (`synchronous=FULL`): an intent before the act, its outcome after
it. It holds names, times, states and keyed fingerprints, never a value. Who writes holds the lock of the rotation.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from opskit.errors import OpskitError, StateFull, StateRefused
from opskit.secrets.rotation.state import Rotation, State

Phase = Literal["intent", "done", "failed"]
PartState = Literal["todo", "running", "done", "failed"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rotation (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_name ON rotation (name, number);
CREATE TABLE IF NOT EXISTS step (
    number INTEGER PRIMARY KEY, rotation TEXT NOT NULL,
    step TEXT NOT NULL, phase TEXT NOT NULL, at REAL NOT NULL, note TEXT
);
CREATE INDEX IF NOT EXISTS by_rotation ON step (rotation, number);
CREATE TABLE IF NOT EXISTS part (
    number INTEGER PRIMARY KEY, rotation TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL, at REAL NOT NULL, note TEXT, UNIQUE (rotation, kind, id)
);
CREATE INDEX IF NOT EXISTS by_state ON part (rotation, kind, state, number);
"""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_ROOM = 128 * 1024
"""Bytes that SQLite may need beside the journal; with less, an I/O error is one of a full disk."""
_PARTS = "SELECT id, state, attempts, at, note FROM part WHERE rotation=? AND kind=?"


class Part:
    """A consumer or an item of a rotation, and where it stands."""

    __slots__ = ("at", "attempts", "id", "note", "state")

    def __init__(self, id: str, state: PartState, attempts: int, at: float, note: str | None) -> None:
        self.id, self.state, self.attempts, self.at, self.note = id, state, attempts, at, note


class Journal:
    """All rotations of a host.

    Every method may raise StateFull, StateRefused, and OpskitError: no permission, a damaged file.
    """

    def __init__(self, path: Path) -> None:
        with _translated(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            self._path = path
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.executescript(_SCHEMA)
            except sqlite3.Error:
                self._connection.close()
                raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def keep(self, rotation: Rotation) -> None:
        """Add a rotation, or replace what is known of it."""
        values = (rotation.name, _record(rotation), rotation.id)
        with self._writing(rotation) as run:
            if run("UPDATE rotation SET name=?, record=? WHERE id=?", values).rowcount == 0:
                run("INSERT INTO rotation (name, record, id) VALUES (?,?,?)", values)

    def note(self, rotation: Rotation, step: str, phase: Phase, at: float, note: str | None = None) -> None:
        """Tell what is about to be done, or what came of it."""
        with self._writing(rotation) as run:
            _note(run, rotation, step, phase, at, note)

    def reach(self, rotation: Rotation, step: str, at: float, note: str | None = None) -> None:
        """Tell that a step was done, and what the rotation is now, in one commit."""
        with self._writing(rotation) as run:
            _note(run, rotation, step, "done", at, note)
            run("UPDATE rotation SET record=? WHERE id=?", (_record(rotation), rotation.id))

    def latest(self, name: str) -> Rotation | None:
        """The last rotation of that name."""
        rows = self._asked("SELECT record FROM rotation WHERE name=? ORDER BY number DESC LIMIT 1", name)
        return next((_rotation(record) for (record,) in rows), None)

    def completed(self) -> dict[str, float]:
        """When the last rotation of each name that was not undone had its new value promoted (epoch seconds)."""
        found = dict[str, float]()
        for (record,) in self._asked("SELECT record FROM rotation ORDER BY number"):
            rotation = _rotation(record)
            if State.PROMOTED in rotation.reached and not rotation.is_back:
                found[rotation.name] = rotation.reached[State.PROMOTED]
        return found

    def all_latest(self) -> dict[str, Rotation]:
        """The last rotation of every name."""
        rows = self._asked(
            "SELECT record FROM rotation WHERE number IN (SELECT max(number) FROM rotation GROUP BY name)"
        )
        return {each.name: each for each in (_rotation(record) for (record,) in rows)}

    def steps(self, rotation: Rotation) -> Iterator[tuple[str, str, float, str | None]]:
        """(step, phase, when, note), the oldest first."""
        yield from self._asked("SELECT step, phase, at, note FROM step WHERE rotation=? ORDER BY number", rotation.id)

    def was_intended(self, rotation: Rotation, step: str) -> bool:
        """Whether a step was ever begun."""
        found = self._asked(
            "SELECT 1 FROM step WHERE rotation=? AND step=? AND phase='intent' LIMIT 1", rotation.id, step
        )
        return bool(found)

    def may_hold(self, rotation: Rotation, step: str, undone_by: str) -> bool:
        """Whether a step was begun, and the one that undoes it was not done since."""
        found = self._asked(
            "SELECT step FROM step WHERE rotation=? AND ((step=? AND phase='intent') OR (step=? AND phase='done')) "
            "ORDER BY number DESC LIMIT 1",
            rotation.id, step, undone_by,
        )  # fmt: skip
        return bool(found) and found[0][0] == step

    def list_parts(self, rotation: Rotation, kind: str, ids: Iterable[str], at: float) -> int:
        """Add parts that are not known yet, to be done; tells how many were new."""
        with self._writing(rotation) as run:
            before = self._count(rotation, kind)
            for each in ids:
                run("INSERT OR IGNORE INTO part (rotation, kind, id, state, attempts, at) VALUES (?,?,?,'todo',0,?)",
                    (rotation.id, kind, each, at))  # fmt: skip
            return self._count(rotation, kind) - before

    def mark(
        self, rotation: Rotation, kind: str, marks: Iterable[tuple[str, PartState, str | None, int]], at: float
    ) -> None:
        """(id, state, note, further attempts) of several parts in one commit."""
        with self._writing(rotation) as run:
            for part, state, note, attempts in marks:
                run("UPDATE part SET state=?, note=?, at=?, attempts=attempts+? WHERE rotation=? AND kind=? AND id=?",
                    (state, note, at, attempts, rotation.id, kind, part))  # fmt: skip

    def parts(self, rotation: Rotation, kind: str, *states: PartState, limit: int = -1) -> list[Part]:
        """Parts in one of those states (all, where none is given), in the order in which they were listed."""
        wanted = f"AND state IN ({','.join('?' * len(states))})" if states else ""
        rows = self._asked(f"{_PARTS} {wanted} ORDER BY number LIMIT ?", rotation.id, kind, *states, limit)
        return [Part(*row) for row in rows]

    def part(self, rotation: Rotation, kind: str, id: str) -> Part | None:
        """One part; None where it was never listed."""
        rows = self._asked(f"{_PARTS} AND id=?", rotation.id, kind, id)
        return Part(*rows[0]) if rows else None

    def counts(self, rotation: Rotation, kind: str) -> dict[str, int]:
        """How many parts are in each state."""
        rows = self._asked(
            "SELECT state, count(*) FROM part WHERE rotation=? AND kind=? GROUP BY state", rotation.id, kind
        )
        return dict(rows)

    def requeue(self, rotation: Rotation, kind: str) -> None:
        """Those that failed are tried once more: what became of them is asked first, as of interrupted ones."""
        with self._writing(rotation) as run:
            run("UPDATE part SET state='running' WHERE rotation=? AND kind=? AND state='failed'",
                (rotation.id, kind))  # fmt: skip

    def _count(self, rotation: Rotation, kind: str) -> int:
        return int(self._asked("SELECT count(*) FROM part WHERE rotation=? AND kind=?", rotation.id, kind)[0][0])

    def _asked(self, sql: str, *values: object) -> list[Any]:
        with _translated(self._path):
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _writing(self, rotation: Rotation) -> Iterator[Any]:
        with _translated(self._path, f" {rotation.name}"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                # A commit that failed leaves the transaction open, or has taken it back itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _note(run: Any, rotation: Rotation, step: str, phase: Phase, at: float, note: str | None) -> None:
    run("INSERT INTO step (rotation, step, phase, at, note) VALUES (?,?,?,?,?)", (rotation.id, step, phase, at, note))


def _record(rotation: Rotation) -> str:
    return json.dumps({**vars(rotation), "reached": dict(rotation.reached)})


def _rotation(record: str) -> Rotation:
    try:
        values = json.loads(record)
        return Rotation(**{**values, "state": State(values["state"])})
    except (ValueError, TypeError, KeyError) as error:
        raise OpskitError(
            "the journal of rotations has a record that cannot be read: it is damaged, or of a newer opskit",
            hint="bring rotations/journal.sqlite back from a backup of the state folder, or opskit up to date",
        ) from error


@contextmanager
def _translated(path: Path, name: str = "") -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise translation(error, path, f"`opskit rotate resume{name}`") from error


def translation(error: sqlite3.Error | OSError, path: Path, resume: str) -> OpskitError:
    """The error for people. SQLite says `disk i/o error` of a full disk too: the file system is asked."""
    what = f"cannot use the journal of rotations {path}"
    safe = "no value is lost: the store keeps the old one and the new one until a rotation has ended"
    name = str(getattr(error, "sqlite_errorname", ""))
    number = error.errno if isinstance(error, OSError) else None
    if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
        number = _hindrance(path.parent)
    if number == errno.EROFS or name.startswith("SQLITE_READONLY"):
        return StateRefused(
            f"{what}: the state folder is read-only",
            hint=f"{safe}\nmake it writable (mount options, owner, `dmesg` for a failing disk), then {resume} goes on",
        )
    if number in _FULL or name == "SQLITE_FULL":
        return StateFull(
            f"{what}: the disk with the state folder is full",
            hint=f"{safe}\nmake room on the disk of {path.parent}, then {resume} goes on",
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return OpskitError(
        f"{what}: {(reason or 'error').lower()}",
        hint=f"nothing goes on without it; {resume} does, once that is mended",
    )


def _hindrance(folder: Path) -> int | None:
    """Why nothing can be written there, as an errno, or None: SQLite does not tell, nor does a mount.

    A file system that was stopped after an error refuses writes, and is mounted read-write as before.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM)
    except OSError as error:
        return error.errno
    return None
