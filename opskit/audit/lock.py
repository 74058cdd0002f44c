"""The lock of a log, as one process holds it between one append and the next.

Each thread has the lock file open for itself and keeps it open: flock excludes open files from one another, whoever has
them, so threads exclude one another as processes do, and the kernel frees the lock of a process that dies. A child that
was forked closes what it inherited at once, or else it would keep the lock of a parent that dies.

Invariant: who holds it holds the file that the lock's name leads to: a lock file that was removed or moved is left, and
the one at the name opened (made, if need be). It deliberately does not know what is done under it.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

from opskit.audit.files import close_all, make_folder, open_to_append, take_lock
from opskit.audit.segments import lock_file, log_folder


class _Opened(NamedTuple):
    descriptor: int
    device: int
    inode: int


class Lock:
    """The lock of the log below `folder`; `sleep` takes seconds. May be used by several threads, and after a fork."""

    def __init__(self, folder: Path, sleep: Callable[[float], None]) -> None:
        self._folder = folder
        self._path = lock_file(folder)
        self._name = os.fspath(self._path)
        self._sleep = sleep
        self._opened: dict[int, _Opened] = {}
        """By thread; one that ended leaves its own to the next that gets its number."""
        _all.add(self)

    def take(self, patience: float) -> None:
        """Hold the lock from now on; raises AuditError after `patience` seconds of waiting, or OSError.

        Whoever calls this has to call `release`, also if a signal ends it.
        """
        thread = threading.get_ident()
        while True:
            opened = self._opened.get(thread) or self._open(thread)
            take_lock(self._path, opened.descriptor, sleep=self._sleep, patience=patience)
            if self._is_at_its_name(opened):
                return
            os.close(self._opened.pop(thread).descriptor)

    def release(self) -> None:
        """Let others have the lock. No harm where it is not held."""
        if (opened := self._opened.get(threading.get_ident())) is not None:
            fcntl.flock(opened.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the files; nobody may be about to take or release the lock."""
        opened, self._opened = self._opened, {}
        close_all(each.descriptor for each in opened.values())

    def _open(self, thread: int) -> _Opened:
        if not os.path.lexists(self._path):  # a lock without the folder of the segments is a log that was removed
            make_folder(log_folder(self._folder), self._folder.parent)
        descriptor = open_to_append(self._path)
        status = os.fstat(descriptor)
        opened = self._opened[thread] = _Opened(descriptor, status.st_dev, status.st_ino)
        return opened

    def _is_at_its_name(self, opened: _Opened) -> bool:
        try:
            status = os.lstat(self._name)
        except FileNotFoundError:
            return False
        return status.st_ino == opened.inode and status.st_dev == opened.device


_all: WeakSet[Lock] = WeakSet()


def _leave_to_the_parent() -> None:
    for each in list(_all):
        each.close()


os.register_at_fork(after_in_child=_leave_to_the_parent)
