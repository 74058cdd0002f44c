"""Opening, making and locking the files of a log, whoever else can write to the folders they lie in.

Invariants: no symbolic link is followed in the last part of a name, and nothing but a regular file is read or written.
What root makes takes the owner and group of the folder that it lies in, or else the owner of state_dir would be locked
out of a log that root began; as the folder is looked at through the descriptor in which the file is made, exchanging
that folder for another gains nobody a file in it. Nobody waits for a lock for ever: its holder may be stopped. That a
name leads to an open file still is asked in a way that costs a running process little.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opskit.errors import AuditError

WRITER_PATIENCE = 30.0
"""Seconds that what must be recorded waits for the lock."""
READER_PATIENCE = 5.0
"""Seconds that what goes on without the log waits for it."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.00005, 0.05
_TURNS = 20
"""How often a lock is asked for before the first pause: most are let go within microseconds."""
_COARSEST_TIME = 2_000_000_000
"""Nanoseconds; changes of a folder that lie closer together may leave the same time (FAT; elsewhere 10 ms or less)."""


class Name:
    """The name under which a file was opened, to be asked again and again whether it leads there still.

    A file that is written to is itself not asked for its times each time: from Linux 6.13 on, the next write would
    have to journal new ones (5 µs). As long as its folder is the one it was and has not changed, its name has not.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self._file = status.st_dev, status.st_ino
        self._path, self._folder = os.fspath(path), os.fspath(path.parent)
        self._unchanged: tuple[int, int, int] | None = None
        """The folder as it was when the name was looked at, and had been long enough for a change to show."""

    def leads_there(self) -> bool:
        """Whether it does; raises OSError."""
        try:
            above = os.stat(self._folder)
            if (above.st_dev, above.st_ino, above.st_ctime_ns) == self._unchanged:
                return True
            status = os.lstat(self._path)
        except FileNotFoundError:
            return False
        if (status.st_dev, status.st_ino) != self._file:
            return False
        is_old = status.st_mtime_ns - above.st_ctime_ns > _COARSEST_TIME
        self._unchanged = (above.st_dev, above.st_ino, above.st_ctime_ns) if is_old else None
        return True


def open_to_read(path: Path) -> int:
    """A descriptor of a regular file; raises OSError, for anything else too. Never waits for a FIFO."""
    return _regular(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))


def open_to_append(path: Path) -> int:
    """The same for appending; the file is made (mode 0600) if it is not there, its folder is not."""
    # The lock too: after `chattr +a` only O_APPEND opens a file for writing, and NFS locks none that is read only.
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with suppress(FileNotFoundError):
            return _regular(os.open(path, flags))
        with _folder(path.parent) as above, suppress(FileExistsError):  # another writer just made it
            return _given(os.open(path.name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=above), above)


def make_folder(folder: Path, inside: Path) -> None:
    """Make a folder and those above it (mode 0700), each on the medium; below `inside` with the owner files get."""
    if folder.is_dir():
        return
    make_folder(folder.parent, inside)
    with _folder(folder.parent) as above:
        try:
            os.mkdir(folder.name, 0o700, dir_fd=above)
        except FileExistsError:
            if not folder.is_dir():
                raise
        else:
            if inside in folder.parents:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(_given(os.open(folder.name, flags, dir_fd=above), above))
        os.fsync(above)


def close_all(descriptors: Iterable[int]) -> None:
    """Close files; what a network file system may complain of only then was synced before, or has failed before."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the medium."""
    with _folder(folder) as descriptor:
        os.fsync(descriptor)


def take_lock(
    path: Path, descriptor: int, *, shared: bool = False, sleep: Callable[[float], None], patience: float
) -> None:
    """Lock an open file until its descriptor is closed; raises AuditError after `patience` seconds of pauses."""
    kind, waited, pause, turns = fcntl.LOCK_SH if shared else fcntl.LOCK_EX, 0.0, _SHORTEST_PAUSE, _TURNS
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if turns:
                turns -= 1
                os.sched_yield()
                continue
        if waited >= patience:
            raise AuditError(
                f"another process has held the lock of the audit log for {patience:.0f} s: {path}",
                hint="`fuser -v` with this path shows which; if it was stopped (state T in ps), let it go on",
            )
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE)


@contextmanager
def _folder(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _regular(descriptor: int) -> int:
    """The descriptor, if it is of a regular file."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file")


def _given(descriptor: int, above: int) -> int:
    """The descriptor of what was just made in a folder, given to whom the folder belongs, where root made it."""
    try:
        folder = os.fstat(above)
        if os.geteuid() == 0 and os.fstat(descriptor).st_uid != folder.st_uid:
            with suppress(PermissionError):  # a network file system may permit it to nobody
                os.fchown(descriptor, folder.st_uid, folder.st_gid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
