"""The Source seam: what is backed up, as a sorted stream of entries and a way to read each.

Contract (checked by tests/contracts over every implementation):

- `entries` yields every entry once, in component-wise byte order: paths compare as tuples of their
  parts, so a folder and all below it come before `folder-b` and `folder.txt`. Parents come first.
- What cannot be read is a Problem in the stream, never an exception and never left out in silence.
  A source which is absent as a whole raises SourceError before anything is yielded.
- `open` and `metadata` answer for entries of this source, in any order, from any thread, also while
  `entries` is suspended. They never follow a symbolic link below a source path, never open anything
  but a regular file (so nothing blocks on a FIFO), and answer with a Problem where an entry changed.
- A stream (`OpenFile.fd` is -1) reports a failed command by SourceError from `readinto` at its end:
  whoever saw `readinto` return 0 has the whole content.
- Closing the generator, or the source, ends child processes and frees descriptors.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol, runtime_checkable

Kind = Literal["file", "dir", "symlink", "fifo", "char", "block", "socket"]
ProblemKind = Literal["unreadable", "vanished", "changed", "skipped"]

KINDS: dict[int, Kind] = {
    0o01: "fifo",
    0o02: "char",
    0o04: "dir",
    0o06: "block",
    0o10: "file",
    0o12: "symlink",
    0o14: "socket",
}
"""The kind by the top four bits of st_mode (`st_mode >> 12`)."""


class Entry(NamedTuple):
    """One thing to record. Hot loops build it by `tuple.__new__`, which halves the cost."""

    path: bytes
    """Relative to "/" without a leading slash, e.g. b"srv/tokens/a.txf"."""
    kind: Kind
    stat: os.stat_result
    """As lstat saw it during the walk (of a parent: as stat did, parents may be symbolic links)."""
    is_parent: bool
    """A folder above a source path, recorded only so that a restore can recreate it (mode and owner, no times)."""


class Problem(NamedTuple):
    """Something which could not be read as it should be; the run goes on and ends with exit code 3."""

    path: bytes
    message: str
    kind: ProblemKind


class Metadata(NamedTuple):
    """What a restore needs beyond the stat of an entry."""

    xattrs: dict[bytes, bytes]
    """Extended attributes by full name; ACLs and capabilities are among them."""
    target: bytes
    """Where a symbolic link points, else empty."""
    user: str
    """Name of the owner, empty where the system knows none."""
    group: str
    problem: Problem | None
    """What of this could not be read; with kind "vanished" the entry itself is gone."""


class Small(NamedTuple):
    """What `read_small` knows beyond the content."""

    user: str
    group: str
    after: os.stat_result
    """The open file once its content was read: where it differs from the entry, the content may be another's."""


class OpenFile(Protocol):
    """The content of one entry, to be read once, from its beginning."""

    fd: int
    """Descriptor of the regular file, for readers that do better than `readinto`; -1 for a stream."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of `buffer`, return the count of bytes; 0 only at the end of complete content.

        Raises OSError where a file cannot be read, SourceError where a command failed.
        """

    def close(self) -> None:
        """Free it; a command that has not ended is terminated. Safe to repeat."""


class Source(Protocol):
    """Something to back up; see the module docstring for the contract."""

    def entries(self) -> Iterator[Entry | Problem]:
        """All entries and problems, sorted; raises SourceError before the first where the source is absent."""

    def open(self, entry: Entry) -> OpenFile | Problem:
        """The content of an entry of kind "file"; raises SourceError where a command cannot start."""

    def metadata(self, entry: Entry, opened: OpenFile | None = None) -> Metadata:
        """Attributes, link target and owner names of an entry, read through `opened` where that is given."""

    def close(self) -> None:
        """Free descriptors and end child processes; `entries` may be called anew. Safe to repeat."""


@runtime_checkable
class SmallReader(Protocol):
    """What a source may offer besides, where most entries are small files: all there is to know of one in one call."""

    def read_small(self, entry: Entry, buffer: memoryview) -> Small | None:
        """Fill `buffer`, as long as the file, with the whole content of the file that `entries` yielded last.

        For the thread that walks. None, without a reason, wherever the entry is not plain (it cannot be read, has
        another length, extended attributes or an unnamed owner): then `open` and `metadata` tell.
        """


def problem_of(path: bytes, error: OSError) -> Problem:
    """The Problem which stands for a failed system call on the entry at `path`."""
    reason = (error.strerror or type(error).__name__).lower()
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return Problem(path, "vanished during the backup", "vanished")
    return Problem(path, reason, "unreadable")


def printable(path: bytes) -> str:
    """A path of the stream for people: absolute, what is no UTF-8 or not printable escaped."""
    text = (b"/" + path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def parents_of(root: bytes, seen: set[bytes]) -> Iterator[Entry | Problem]:
    """The folders above a source path, each once; links are followed, so a restore recreates real folders."""
    parts = root.split(b"/")[:-1]
    for depth in range(1, len(parts) + 1):
        parent = b"/".join(parts[:depth])
        if parent not in seen:
            seen.add(parent)
            try:
                yield Entry(parent, "dir", os.stat(b"/" + parent), True)
            except OSError as error:
                yield problem_of(parent, error)


def read_xattrs(file: int | bytes) -> dict[bytes, bytes]:
    """Extended attributes of a descriptor or of a path (not following a link); one system call where there are none.

    ACLs (`system.posix_acl_access`, `system.posix_acl_default`) and capabilities (`security.capability`) are extended
    attributes and come with them, and so does `security.selinux`: a restore to a host with another policy may have to
    leave it out, but it cannot invent it. Attributes this user may not see (`trusted.*` without root) are not listed by
    the kernel and so not recorded. Inode flags (chattr) are not read.
    Raises OSError; an attribute which vanishes between listing and reading is left out.
    """
    follow = isinstance(file, int)
    names = os.listxattr(file, follow_symlinks=follow)
    values: dict[bytes, bytes] = {}
    for name in names:
        try:
            values[os.fsencode(name)] = os.getxattr(file, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
    return values


def data_regions(fd: int, size: int) -> list[tuple[int, int]]:
    """The (offset, length) of each stretch of data in the first `size` bytes; the rest are holes.

    Worth its calls only where `st_blocks * 512 < size`. A file system which cannot tell says one region.
    Moves the file offset. Raises OSError where the file cannot be read.
    """
    regions: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return [(0, size)]
            raise
        if start >= size:
            break
        position = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        regions.append((start, position - start))
    return regions


class OwnerNames:
    """Names of users and groups, each asked of the system once (a directory service can be slow)."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}
        self._pairs: dict[tuple[int, int], tuple[str, str] | None] = {}

    def both(self, status: os.stat_result) -> tuple[str, str] | None:
        """Names of owner and group, None where the system does not know both."""
        key = (status.st_uid, status.st_gid)
        if key not in self._pairs:
            user, group = self.user(key[0]), self.group(key[1])
            self._pairs[key] = (user, group) if user and group else None
        return self._pairs[key]

    def user(self, uid: int) -> str:
        """The login name, or "" where the system knows none."""
        if uid not in self._users:
            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except (KeyError, OverflowError):
                self._users[uid] = ""
        return self._users[uid]

    def group(self, gid: int) -> str:
        """The group name, or "" where the system knows none."""
        if gid not in self._groups:
            try:
                self._groups[gid] = grp.getgrgid(gid).gr_name
            except (KeyError, OverflowError):
                self._groups[gid] = ""
        return self._groups[gid]
