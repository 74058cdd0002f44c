"""One run at a time: a lock that no crash survives.

The kernel holds it (flock) for as long as the process lives, so there is nothing to break after a kill
-9. The file's content only says who holds it. It excludes runs of this host's state folder, not of other hosts:
they have keys, caches and chains of their own, and objects never collide.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.errors import OpskitError, RepositoryLocked


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` (made if absent, mode 0600); raises RepositoryLocked at once if it is taken."""
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise RepositoryLocked(
                f"another run works on this repository: process {holder or 'unknown'} holds {path}",
                hint="wait for it to end; the lock goes with the process, there is nothing to remove",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OpskitError(
            f"the lock {path} cannot be opened: {(error.strerror or 'error').lower()}",
            hint="does this user own state_dir, and is there space?",
        ) from error
