"""Private short-lived folders with short names, which no crash leaves behind for good.

A folder is held by a lock (flock) on itself for as long as its maker lives; the next start removes those that nobody
holds, and ends the agents that still run in them. A lock, unlike a process number, cannot be taken for another's, and
holds across containers that share a file system.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

_PREFIX = "opskit-gpg-"
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def candidates() -> list[Path]:
    """Where short-lived folders may lie, best first."""
    return [Path(f"/run/user/{os.getuid()}"), Path("/run"), Path("/dev/shm")]


def is_in_memory(path: Path) -> bool:
    """Whether `path` lies on a file system without a disk under it, by the kernel's own mount table."""
    try:
        number = os.stat(path).st_dev
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return False
    device = f"{os.major(number)}:{os.minor(number)}"
    rows = [line.split(" - ", 1) for line in table.splitlines() if line.split(" ", 3)[2] == device]
    return bool(rows) and all(row[1].split(" ", 1)[0] in _IN_MEMORY for row in rows)


def usable(path: Path) -> bool:
    """Whether a folder can be made there."""
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def make_folder(base: Path) -> tuple[Path, int]:
    """A new folder (mode 0700) below `base`, and the descriptor whose closing gives it up."""
    while True:
        path = base / f"{_PREFIX}{os.urandom(6).hex()}"
        path.mkdir(mode=0o700)
        # A sweep that comes before the lock is taken removes the still empty folder.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                return path, descriptor
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_folder(path: Path, descriptor: int) -> None:
    """Remove a folder of `make_folder` with all that is in it, and give it up."""
    try:
        _remove(path)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    # A dying agent removes its own sockets at the same time: what is gone is no error, what stays is.
    for _attempt in range(3):
        shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        shutil.rmtree(path)


def sweep(base: Path, before: Callable[[Path], None]) -> None:
    """Remove the folders below `base` whose makers are dead, after calling `before` (which ends agents) on each."""
    for path in _own_folders(base):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                before(path)
                _remove(path)
            finally:
                os.close(descriptor)


def _own_folders(base: Path) -> list[Path]:
    found = []
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # its maker, or another sweep, took it meanwhile; the others stay to do
                named_so = entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False)
                if named_so and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    found.append(Path(entry.path))
    return found
