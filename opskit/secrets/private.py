"""Reading files that hold secrets: only those that nobody but their owner can read.

What was checked is what is read: every check is made on the opened file. A secret file which others may read is
refused, like ssh does. Symbolic links are followed, for that is how secrets are mounted into containers.
"""

from __future__ import annotations

import os
import stat

from opskit.errors import UnresolvedReference
from opskit.secrets.reference import Reference

MAX_BYTES = 1024 * 1024
OTHERS = 0o077
"""The bits of a mode by which anybody but the owner could read or write a file."""


def read_private(reference: Reference, path: str, forbidden: int = OTHERS, limit: int = MAX_BYTES) -> bytes:
    """The content of a file. Raises UnresolvedReference when it is absent, unsafe or larger than `limit` bytes."""
    try:
        return _checked_content(reference, path, forbidden, limit)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise UnresolvedReference(
            f"{reference} cannot be resolved: expected a readable file, got: {(reason or 'error').lower()}",
            hint="create the file with mode 0600, owned by the user who runs opskit",
        ) from error


def _checked_content(reference: Reference, path: str, forbidden: int, limit: int) -> bytes:
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _refuse_unsafe(reference, os.fstat(descriptor), forbidden)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise UnresolvedReference(f"{reference} leads to a file that is too large: expected at most {limit:,} bytes")
    return content


def _refuse_unsafe(reference: Reference, status: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnresolvedReference(f"{reference} is not a regular file: expected one, got {_kind(status.st_mode)}")
    if status.st_mode & forbidden:
        mode = stat.S_IMODE(status.st_mode)
        raise UnresolvedReference(
            f"{reference} is open to others: expected mode 0600, got {mode:04o}", hint="chmod 600 the file"
        )
    if status.st_uid not in {0, os.geteuid()}:
        raise UnresolvedReference(
            f"{reference} belongs to another user: expected uid {os.geteuid()} or root, got uid {status.st_uid}",
            hint="chown the file to the user who runs opskit",
        )


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")
