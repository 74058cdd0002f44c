"""Files of SQLite as a source: each is copied by the online backup API, and the copy is read.

Invariants: a copy is one state of the database, whoever writes to it meanwhile, with or without a write-ahead log; the
original is opened read-only; a database that cannot be copied is a SourceError, so its snapshot fails as a whole.

The copy lies in a folder of mode 0700 of opskit's own, wiring says where (below the state folder), and not beside the
database: that folder may be read-only to opskit, shown to others, or part of another source. It is unlinked as soon as
it is complete, so it takes space only while it is read; what a killed run left is removed by the next. It has the size
of the database, which must be free there.

A transaction is held while it is copied. With a write-ahead log that blocks nobody; without one, writers wait.
POSIX drops a process's locks on a file when it closes *any* descriptor of it: while SQLite has the original open,
nothing here opens it besides. A path which is a symbolic link is refused, as those who lock the database know it by
another name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from opskit.errors import SourceError
from opskit.sources.base import (
    Entry,
    Metadata,
    OpenFile,
    OwnerNames,
    Problem,
    parents_of,
    printable,
    problem_of,
    read_xattrs,
)

SPARE_BYTES = 16 * 1024 * 1024
"""What stays free beside the copy."""
PAGES_A_STEP = 4096
"""After each step an interruption is noticed; the transaction spans them all."""
WITH_LOG = b"\x02\x02"
"""Bytes 18 and 19 of a database with a write-ahead log (SQLite, "Database File Format", 1.3.3)."""
BUSY_SECONDS = 60.0
"""How long a database may be locked by others."""


class SqliteSource:
    """The databases at `paths` (absolute), by way of copies in `folder`; implements Source."""

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        folder: Path,
        *,
        busy_seconds: float = BUSY_SECONDS,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._paths = sorted({os.fsencode(path).lstrip(b"/") for path in paths}, key=lambda path: path.split(b"/"))
        self._folder, self._busy_seconds, self._free_bytes = folder, busy_seconds, free_bytes
        self._owners = OwnerNames()
        self._open: list[_Copied] = []

    def entries(self) -> Iterator[Entry | Problem]:
        """Each database, after the folders above it; raises SourceError where one is missing."""
        found = [Entry(path, "file", _status(path), False) for path in self._paths]
        seen: set[bytes] = set()
        for entry in found:
            yield from parents_of(entry.path, seen)
            yield entry

    def open(self, entry: Entry) -> OpenFile | Problem:
        """Copy the database; raises SourceError where that fails or space is short."""
        copied = _Copied(self._copy(b"/" + entry.path))
        self._open.append(copied)
        return copied

    def metadata(self, entry: Entry, opened: OpenFile | None = None) -> Metadata:
        """Owner names and extended attributes of the original, by its path."""
        # Links above a database are followed, also where they are recorded as parents of it.
        place = os.path.realpath(b"/" + entry.path) if entry.is_parent else b"/" + entry.path
        attributes, problem = dict[bytes, bytes](), None
        try:
            attributes = read_xattrs(place)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                problem = problem_of(entry.path, error)
        user, group = self._owners.user(entry.stat.st_uid), self._owners.group(entry.stat.st_gid)
        return Metadata(attributes, b"", user, group, problem)

    def close(self) -> None:
        """Close the copies."""
        while self._open:
            self._open.pop().close()

    def _copy(self, path: bytes) -> int:
        """A descriptor of a copy that has no name any more."""
        name = printable(path.lstrip(b"/"))
        try:
            descriptor, place = _new_file(self._folder)
        except OSError as error:
            reason = (error.strerror or "error").lower()
            raise SourceError(f"{self._folder}: no copy of {name} can be made there: {reason}") from error
        try:
            if not self._copy_at_rest(path, place):
                self._copy_by(_uri(path), place, name)
            os.lseek(descriptor, 0, os.SEEK_SET)
            return descriptor
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, sqlite3.Error):
                raise SourceError(f"{name}: cannot be copied: {error}", hint=_hint(str(error))) from error
            raise
        finally:
            os.unlink(place)

    def _copy_at_rest(self, path: bytes, place: str) -> bool:
        """Copy a database that nobody has open; False where that is not so, or not so any more.

        One with a write-ahead log, of which no such log is there, is at rest. To open it in the usual way would make
        two files beside it, and fail where that is forbidden. This way it is not locked either: whoever opened it
        meanwhile made a log, and whoever finished with it as well changed it.
        """
        before = _at_rest(path)
        if before is None:
            return False
        try:
            self._copy_by(f"{_uri(path)}&immutable=1", place, printable(path.lstrip(b"/")))
        except sqlite3.Error:
            return False
        return _at_rest(path) == before

    def _copy_by(self, uri: str, place: str, name: str) -> None:
        with closing(sqlite3.connect(uri, uri=True, timeout=self._busy_seconds, isolation_level=None)) as database:
            self._require_space(database, name)
            with closing(sqlite3.connect(place, isolation_level=None)) as copy:
                copy.execute("PRAGMA journal_mode = OFF")
                copy.execute("PRAGMA synchronous = OFF")
                # The call between steps is where Python looks whether somebody interrupted it.
                database.backup(copy, pages=PAGES_A_STEP, progress=lambda _status, _remaining, _total: None)

    def _require_space(self, database: sqlite3.Connection, name: str) -> None:
        database.execute("BEGIN")
        pages, size = (database.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "page_size"))
        needed, free = pages * size + SPARE_BYTES, self._free_bytes(self._folder)
        if free < needed:
            raise SourceError(
                f"{name}: its copy needs {needed:,} bytes in {self._folder}, {free:,} are free",
                hint="free space there, or move state_dir to a larger file system",
            )


class _Copied:
    """A complete copy; implements OpenFile. No `fd`: its size and times are not those of the entry."""

    fd = -1

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readinto(self, buffer: memoryview) -> int:
        """Read on; 0 at the end."""
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        """Give the space free."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _uri(path: bytes) -> str:
    return f"{Path(os.fsdecode(path)).as_uri()}?mode=ro"


def _at_rest(path: bytes) -> tuple[int, ...] | None:
    """What tells a database that nobody has open from itself later; None for one that may be open, or has no log."""
    try:
        with open(path, "rb", buffering=0) as file:
            found, header = os.fstat(file.fileno()), file.read(20)
    except OSError:
        return None
    if header[18:20] != WITH_LOG or os.path.lexists(path + b"-wal") or os.path.lexists(path + b"-journal"):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _new_file(folder: Path) -> tuple[int, str]:
    """A descriptor and the name of a new file, held by a lock; files that nobody holds are left-overs and go."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for entry in os.scandir(folder):
        with suppress(OSError):
            left = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)
            finally:
                os.close(left)
    while True:
        descriptor, place = tempfile.mkstemp(dir=folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # another kind of lock than those of SQLite
        if os.fstat(descriptor).st_nlink:  # else another run took it for a left-over, between the two lines above
            return descriptor, place
        os.close(descriptor)


def _status(path: bytes) -> os.stat_result:
    """What is recorded of a database: as it is, but a file of its own, and as new as its write-ahead log."""
    name = printable(path)
    try:
        found = os.lstat(b"/" + path)
    except OSError as error:
        raise SourceError(f"{name}: {(error.strerror or 'error').lower()}", hint="is it mounted?") from error
    if not stat.S_ISREG(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "something else"
        raise SourceError(f"{name}: expected a file of SQLite, got {what}", hint="give the path of the file itself")
    newest = found.st_mtime_ns
    with suppress(OSError):
        newest = max(newest, os.lstat(b"/" + path + b"-wal").st_mtime_ns)
    times = {"st_atime_ns": found.st_atime_ns, "st_mtime_ns": newest, "st_ctime_ns": found.st_ctime_ns}
    fields = list(found[:10])
    fields[3], fields[8] = 1, newest // 1_000_000_000
    return os.stat_result(fields, {**times, "st_blocks": found.st_blocks, "st_rdev": found.st_rdev})


def _hint(reason: str) -> str:
    if "locked" in reason:
        return "another program keeps it locked; back up when that is done"
    if "readonly" in reason:
        return "an application that was killed left a journal: start it once, so that the database is recovered"
    if "not a database" in reason:
        return "it is no file of SQLite, or an encrypted one; back it up as a path"
    return "see what `sqlite3 FILE 'PRAGMA integrity_check'` says of it"
