"""Small acts on open folders and files, named by descriptor, so that no path is resolved twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close `descriptor` at the end of the block; an error of close (NFS reports a full disk there) is raised."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def mode_of(folder: int, leaf: str) -> int:
    """The st_mode of what has that name in the open folder, a symlink's own; raises FileNotFoundError."""
    return os.stat(leaf, dir_fd=folder, follow_symlinks=False).st_mode


def is_taken(folder: int, leaf: str) -> bool:
    """Whether anything at all, a dangling symlink too, has that name in the open folder."""
    try:
        mode_of(folder, leaf)
    except FileNotFoundError:
        return False
    return True


def remove_quietly(folder: int, leaf: str) -> None:
    """Remove a file if it is there and can be; for cleaning up, where a failure must not hide another."""
    with suppress(OSError):
        os.unlink(leaf, dir_fd=folder)
