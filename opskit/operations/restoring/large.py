"""Large files: their space is reserved before they are written, their memory given back while they are.

A medium that is too small then says so at once, and not after an hour; and the writing costs a seventh less of the
kernel's work. Where a file system cannot do it, the file only gets its size.

What is written lies in the kernel's page cache. A large restore would fill it, and drive out what the services of the
host work with; and memory that was free until then is dear where a virtual machine's host has to find it first (a
restore of 1.5 GB then took twice as long).
"""

from __future__ import annotations

import contextlib
import errno
import os

LARGE = 32 * 1024 * 1024
"""Bytes from which on it is worth the call."""
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def give_size(descriptor: int, size: int, *, dense: bool) -> None:
    """Make an empty file `size` bytes long, its space reserved if it is large and will be full; raises OSError."""
    if not dense or size < LARGE or not _reserved(descriptor, size):
        os.ftruncate(descriptor, size)


def release(descriptor: int) -> None:
    """Have what was written to a file go to the medium now, and leave the page cache once it is there.

    To Linux the advice means both: begin to write what is not written yet, and drop what is. Nothing is waited for,
    and a medium's failure shows no later than without.
    """
    with contextlib.suppress(OSError):  # only advice
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _reserved(descriptor: int, size: int) -> bool:
    """Whether fallocate(2) could. (os.posix_fallocate, where it cannot, writes a byte into every block.)"""
    import ctypes  # 3 ms that small restores need not pay

    library = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(library, "fallocate64", None) or library.fallocate  # the latter takes 64 bits in musl
    while fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number in _CANNOT:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
