"""Changing a file of people's that decides who may log in: the whole of it at once, or not at all.

Invariants: mode, owner and extended attributes stay what they were. A crash leaves the old file or the new one; what it
leaves beside is removed by the next change. Symbolic links are refused: the folder may belong to somebody who would
have root write elsewhere. A change that somebody else makes meanwhile is not undone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from opskit.errors import TargetError, TargetRefused
from opskit.secrets.rotation.base import TIMEOUT

MOST = 4 * 1024 * 1024
"""Bytes of a file that is taken for one."""


def change(path: Path, edit: Callable[[str], str]) -> None:
    """Replace the text of a file by what `edit` makes of it; nothing is written where that is the same.

    Raises TargetRefused where the file is as it was, and TargetError where it may not survive a power cut.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        with _alone(folder, path):
            if _replaced(folder, path, edit):
                _synced(folder, path)
    finally:
        os.close(folder)


def text_of(path: Path) -> str:
    """The text; raises TargetRefused where it cannot be read."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _opened(folder, path) as file:
                return _read(file, path)
        finally:
            os.close(folder)
    except OSError as error:
        raise _refused(path, error) from error


@contextlib.contextmanager
def _alone(folder: int, path: Path) -> Iterator[None]:
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # never waited for: any reader of a folder may hold it
            break
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TargetError(f"{path}: somebody else holds the lock of its folder", hint="try again") from None
            time.sleep(0.05)
    yield  # closing the folder lets go of it


def _replaced(folder: int, path: Path, edit: Callable[[str], str]) -> bool:
    name = f".{path.name}.opskit"
    try:
        with _opened(folder, path) as file:
            before = os.fstat(file)
            text = _read(file, path)
            changed = edit(text)
            if changed == text:
                return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)  # of a crash
            try:
                _write(folder, name, changed.encode(errors="surrogateescape"), file)
                _require_same(folder, path, before)
                os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                raise
    except OSError as error:
        raise _refused(path, error) from error
    return True


@contextlib.contextmanager
def _opened(folder: int, path: Path) -> Iterator[int]:
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield file
    finally:
        os.close(file)


def _read(file: int, path: Path) -> str:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST:
        raise TargetRefused(f"{path}: expected a regular file of at most {MOST:,} bytes")
    with open(file, "rb", closefd=False) as reader:
        return reader.read().decode(errors="surrogateescape")


def _write(folder: int, name: str, data: bytes, model: int) -> None:
    """A new file, like the model in all but its content, and on the medium."""
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with open(file, "wb") as writer:
        status = os.fstat(model)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.fstat(file).st_gid):
            os.fchown(file, status.st_uid, status.st_gid)
        writer.write(data)
        writer.flush()
        os.fchmod(file, stat.S_IMODE(status.st_mode))
        _copy_attributes(model, file)
        os.fsync(file)


def _copy_attributes(model: int, file: int) -> None:
    """Access lists and labels (SELinux), as far as they may be set."""
    try:
        for name in os.listxattr(model):
            os.setxattr(file, name, os.getxattr(model, name))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENODATA, errno.EACCES, errno.EINVAL):
            raise


def _require_same(folder: int, path: Path, before: os.stat_result) -> None:
    now = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    if (now.st_ino, now.st_size, now.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
        raise TargetRefused(f"{path} was changed by somebody else meanwhile", hint="try again")


def _synced(folder: int, path: Path) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        raise TargetError(f"{path} was changed, and may not survive a power cut: {_reason(error)}") from error


def _refused(path: Path, error: OSError) -> TargetRefused:
    hint = "the account's owner makes it, for no file may belong to somebody else: touch, chmod 600"
    if error.errno == errno.ELOOP:
        return TargetRefused(f"{path} is a symbolic link: expected the file itself", hint="name what it leads to")
    return TargetRefused(
        f"{path} cannot be changed: {_reason(error)}", hint=hint if isinstance(error, FileNotFoundError) else None
    )


def _reason(error: OSError) -> str:
    return (error.strerror or "error").lower()
