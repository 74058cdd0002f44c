"""Descriptors of folders, reached part by part without ever following a symbolic link.

Walking and opening by descriptor instead of by path is what makes a tree safe to read while its
owner changes it: a folder swapped for a symbolic link cannot lead outside. It also works below the
4,096 bytes of PATH_MAX, and is faster.

The first 64 levels below an anchor (a source path) stay open, so stepping to a sibling costs one
open; deeper ones are opened again when needed, so that no tree uses up the descriptors of the process.
Anchors themselves are the word of whoever wrote the config: symbolic links above them are followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

KEPT_LEVELS = 64

TO_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags for a cursor whose folders will be listed: needs read permission."""

TO_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags for a cursor which opens things inside folders: search permission is enough."""


class FolderCursor:
    """One position in the trees below the anchors; not for use by two threads at once.

    A descriptor it returns stays open until the next call of any method.
    """

    def __init__(self, anchors: Iterable[bytes], flags: int) -> None:
        self._anchors = sorted(anchors, key=len, reverse=True)
        self._flags = flags
        self._anchor: bytes | None = None
        self._folder: bytes | None = None
        self._fd = -1
        self._names: list[bytes] = []  # parts below the anchor with a descriptor in _fds[1:]
        self._fds: list[int] = []
        self._tail: list[bytes] = []  # parts below _names that lead to _tail_fd
        self._tail_fd = -1

    def descriptor(self, folder: bytes) -> int:
        """An open descriptor of `folder` (relative to "/"); raises OSError, ENOTDIR for a symbolic link."""
        here = self._folder
        if folder == here:
            return self._fd
        self._folder = None
        if here and not self._tail and self._step_beside(here, folder):
            self._folder, self._fd = folder, self._fds[-1]
            return self._fd
        anchor = self._anchor_of(folder)
        if anchor != self._anchor:
            self.close()
            self._fds.append(os.open(b"/" + anchor, self._flags & ~os.O_NOFOLLOW))
            self._anchor = anchor
        below = folder[len(anchor) :].strip(b"/")
        names = below.split(b"/") if below else []
        self._step(names[:KEPT_LEVELS])
        self._fd = self._reach(names[KEPT_LEVELS:])
        self._folder = folder
        return self._fd

    def close(self) -> None:
        """Close every descriptor; the cursor can be used again."""
        self._drop_tail()
        for fd in self._fds:
            with suppress(OSError):
                os.close(fd)
        self._fds.clear()
        self._names.clear()
        self._anchor = self._folder = None

    def _anchor_of(self, folder: bytes) -> bytes:
        for anchor in self._anchors:
            if not anchor or folder == anchor or folder.startswith(anchor + b"/"):
                return anchor
        raise ValueError(f"not a folder of this source: {folder!r}")

    def _step_beside(self, here: bytes, folder: bytes) -> bool:
        """Step from `here` into a folder of it, or out to one above, as a walk nearly always does; else False."""
        depth = len(self._names)
        if folder.startswith(here + b"/"):
            name = folder[len(here) + 1 :]
            if b"/" in name or depth >= KEPT_LEVELS:
                return False
            self._fds.append(os.open(name, self._flags, dir_fd=self._fds[-1]))
            self._names.append(name)
            return True
        levels = here.count(b"/") - folder.count(b"/")
        if not here.startswith(folder + b"/") or levels > depth:
            return False
        for _ in range(levels):
            self._names.pop()
            os.close(self._fds.pop())
        return True

    def _step(self, names: list[bytes]) -> None:
        """Make the kept chain stand for `names`: close what differs, open what is missing."""
        common = 0
        for have, want in zip(self._names, names, strict=False):
            if have != want:
                break
            common += 1
        if common < KEPT_LEVELS:
            self._drop_tail()
        while len(self._names) > common:
            self._names.pop()
            os.close(self._fds.pop())
        for name in names[common:]:
            self._fds.append(os.open(name, self._flags, dir_fd=self._fds[-1]))
            self._names.append(name)

    def _reach(self, tail: list[bytes]) -> int:
        """Go on below the kept chain, holding only the last descriptor."""
        if self._tail != tail[: len(self._tail)]:
            self._drop_tail()
        for name in tail[len(self._tail) :]:
            before = self._tail_fd if self._tail else self._fds[-1]
            fd = os.open(name, self._flags, dir_fd=before)
            if self._tail:
                os.close(before)
            self._tail_fd = fd
            self._tail.append(name)
        return self._tail_fd if tail else self._fds[-1]

    def _drop_tail(self) -> None:
        if self._tail:
            os.close(self._tail_fd)
            self._tail.clear()
            self._tail_fd = -1
