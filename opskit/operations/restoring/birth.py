"""What a new file has by itself: its owner, and the mode it can be given when it is made.

Where that is known, a restored file needs no chown and no chmod of its own. It is seen, not assumed: "cannot tell" is
an answer, and then everything is said in full.
"""

from __future__ import annotations

import contextlib
import errno
import os


def ids_at_birth(root: int) -> tuple[int, int] | None:
    """Whom a new file below `root` belongs to, seen on one without a name; None where that cannot be seen.

    Not always the process's own: mounts with grpid, network file systems and forced owners think otherwise.
    """
    try:
        descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=root)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        return found.st_uid, found.st_gid
    finally:
        os.close(descriptor)


def creation_mask(root: int) -> int | None:
    """The permission bits that files below `root` lose when they are made; None where that is not sure."""
    try:
        os.getxattr(root, "system.posix_acl_default")
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
    else:
        return None
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line[6:], 8)
    return None
