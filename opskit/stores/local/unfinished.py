"""Files on their way to being objects: written and fsynced under hidden names, swept where a killed put left one.

Large files are handed to the medium while they are still being written, so that the fsync at the end finds little left
to do and the medium is busy while the processors hash.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from opskit.stores.base import Buffer, Swept
from opskit.stores.local.descriptors import closing, remove_quietly

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_AT_ONCE = 1 << 20
"""Bytes; writing 30 MiB by one call took ext4 half again to three times as much processor time."""

_HANDED_OVER = 4 << 20
"""Bytes written between two requests to begin; twice or half of it made no difference that could be measured."""


def write_unfinished(folder: int, pieces: Iterable[Buffer], *, durable: bool) -> tuple[str, int]:
    """Write all of `pieces` to a new file in the open folder, and fsync it; returns its name and its bytes.

    Leaves nothing on failure, of `pieces` too.
    """
    temporary = f"{os.getpid()}-{os.urandom(8).hex()}"
    created = os.open(temporary, _CREATE, 0o600, dir_fd=folder)
    try:
        with closing(created) as descriptor:
            size = _write(descriptor, pieces, durable=durable)
            if durable:
                os.fsync(descriptor)
    except BaseException:
        remove_quietly(folder, temporary)
        raise
    return temporary, size


def _write(descriptor: int, pieces: Iterable[Buffer], *, durable: bool) -> int:
    begun = end = 0
    for piece in pieces:
        left = memoryview(piece).cast("B")
        while left:
            if durable and end - begun >= _HANDED_OVER:
                # To Linux this advice means: begin to write these pages now, wait for nothing. (sync_file_range says
                # so more plainly, but Python lacks it.) A failure of the medium still shows in the fsync.
                os.posix_fadvise(descriptor, begun, end - begun, os.POSIX_FADV_DONTNEED)
                begun = end
            written = os.write(descriptor, left[:_AT_ONCE])
            left, end = left[written:], end + written
    return end


def sweep(folder: int, *, now: float, older_than: float, dry_run: bool) -> Swept:
    """Remove the files in the open folder that were not written to for `older_than` seconds; returns what they were."""
    found = Swept()
    for leaf in os.listdir(folder):
        with suppress(FileNotFoundError):
            status = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode) and now - status.st_mtime >= older_than:
                if not dry_run:
                    os.unlink(leaf, dir_fd=folder)
                found = Swept(found.files + 1, found.total_bytes + status.st_size)
    return found
