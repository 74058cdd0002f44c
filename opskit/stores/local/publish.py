"""Giving a finished file its final name in a folder, without ever replacing anything.

`WAYS` are tried in order; file systems differ in which they have. Each shows a reader the whole file
under the new name, or no such name, also after a crash: the file is complete and fsynced before.
The caller makes the new name durable by an fsync of the folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable

from opskit.stores.local.descriptors import is_taken

_RENAME_NOREPLACE = 1
# EMLINK is what some file systems answer whose limit is one link; ENOSYS comes from FUSE.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})
_NO_EXCLUSIVE_RENAME = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Unsupported(Exception):
    """This file system has no such operation; the next way is to be tried."""


# A way to name a finished file without replacing anything: (its folder, its name, new folder, new name).
# Answers whether the old name is gone; raises FileExistsError where the new one is taken, or Unsupported.
Way = Callable[[int, str, int, str], bool]


def by_link(unfinished: int, temporary: str, folder: int, leaf: str) -> bool:
    """A second name for the finished file: link(2) never replaces. ext4, xfs, btrfs, tmpfs, NFS."""
    try:
        os.link(temporary, leaf, src_dir_fd=unfinished, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise Unsupported from error
        raise
    return False


def by_exclusive_rename(unfinished: int, temporary: str, folder: int, leaf: str) -> bool:
    """renameat2(2) with RENAME_NOREPLACE. vfat, exFAT, CIFS."""
    if (number := _rename_noreplace(unfinished, temporary, folder, leaf)) in _NO_EXCLUSIVE_RENAME:
        raise Unsupported
    if number:
        raise OSError(number, os.strerror(number))
    return True


def by_rename_under_lock(unfinished: int, temporary: str, folder: int, leaf: str) -> bool:
    """A plain rename, the name looked at first, both under an exclusive lock of the hidden folder.

    For file systems with neither of the above (some FUSE ones). Creating the final name with O_EXCL
    would be exclusive too, but leaves a reader, and a crash, an object with none or part of its bytes.
    A rename of a finished, fsynced file shows all bytes or none, always. That it replaces nothing
    rests on the lock: every writer of this kind holds it from the look to the rename, the kernel
    frees it when a process dies, and each put opens the folder anew, so it parts threads as well.
    Where the kernel cannot share the lock (two hosts on one network folder) two writers could only
    meet on one name by storing the same bytes, for objects are named by their hash; the few that
    are not are made by init alone.
    """
    fcntl.flock(unfinished, fcntl.LOCK_EX)
    try:
        if is_taken(folder, leaf):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), leaf)
        os.rename(temporary, leaf, src_dir_fd=unfinished, dst_dir_fd=folder)
    finally:
        fcntl.flock(unfinished, fcntl.LOCK_UN)
    return True


def _rename_noreplace(unfinished: int, temporary: str, folder: int, leaf: str) -> int:
    """0, or the errno of renameat2(…, RENAME_NOREPLACE); ENOSYS where the C library lacks it."""
    import ctypes  # 10 ms that only vfat and its like should pay

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return errno.ENOSYS
    source, target = os.fsencode(temporary), os.fsencode(leaf)
    failed = rename(unfinished, source, folder, target, ctypes.c_uint(_RENAME_NOREPLACE))
    return ctypes.get_errno() if failed else 0


WAYS: tuple[Way, ...] = (by_link, by_exclusive_rename, by_rename_under_lock)
