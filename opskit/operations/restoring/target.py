"""Writes entries below a target folder, and nowhere else.

Invariants:
- Every folder on the way is opened relative to its parent with O_NOFOLLOW: a symbolic link, wherever it
  came from, is never written through. Paths were checked when the tree was decoded.
- Nothing is deleted but what this restore itself put there under a temporary name; a file in the way is
  replaced by rename, whole and atomically, and only where the caller allowed it.
- Owner before mode (chown clears setuid), mode before attributes (chown clears capabilities), times last.
- setuid and setgid are only given to what has its recorded owner, and only to content this restore wrote.

A Target is for one thread: it keeps folder descriptors open.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from opskit.errors import Damaged
from opskit.operations.restoring.birth import creation_mask, ids_at_birth
from opskit.repository.tree import Node

_OPEN_FOLDERS = 128
_DEEP = 50
"""Below so many levels the folders on the way are not held open: there must always be room for two paths."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = b".opskit-restore-"
_KINDS = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
_NOT_GIVEN = (errno.EPERM, errno.EACCES, errno.EINVAL)
"""What chown says where an owner cannot be given: EINVAL for ids that a user namespace does not have."""
_SET_IDS = stat.S_ISUID | stat.S_ISGID


class Owners:
    """Maps recorded owners to ids of this host: by number, or by name where the name exists here."""

    def __init__(self, *, by_name: bool) -> None:
        self._by_name = by_name
        self._users: dict[tuple[str | None, int], int] = {}
        self._groups: dict[tuple[str | None, int], int] = {}

    def ids(self, node: Node) -> tuple[int, int]:
        """(uid, gid) to give to an entry."""
        if not self._by_name:
            return node.uid, node.gid
        user, group = (node.user, node.uid), (node.group, node.gid)
        if user not in self._users:
            self._users[user] = _known(lambda: pwd.getpwnam(node.user or "").pw_uid, node.uid)
        if group not in self._groups:
            self._groups[group] = _known(lambda: grp.getgrnam(node.group or "").gr_gid, node.gid)
        return self._users[user], self._groups[group]


def _known(find: Callable[[], int], otherwise: int) -> int:
    try:
        return find()
    except (KeyError, ValueError):
        return otherwise


def _open_folder(name: bytes, parent: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # another thread was quicker, or something is there to be refused
            os.mkdir(name, 0o700, dir_fd=parent)
        return os.open(name, _FOLDER, dir_fd=parent)


class Target:
    """An open target folder, with a descriptor of its own: a thread that was left behind must not find another's."""

    def __init__(self, root: int, owners: Owners, *, replace: bool) -> None:
        self._root, self._owners, self._replace = os.dup(root), owners, replace
        self._folders: OrderedDict[bytes, int] = OrderedDict()
        self._is_root = os.geteuid() == 0
        is_setgid = os.fstat(root).st_mode & stat.S_ISGID  # folders below inherit it, and files their group
        self._own_ids = None if replace or is_setgid else ids_at_birth(root)
        """Whom a new file belongs to by itself; None where that is not sure."""
        mask = None if self._own_ids is None else creation_mask(root)
        self._given_at_birth = 0 if mask is None else 0o777 & ~mask
        """The bits of a mode that a new file of its owner here can have from the start."""
        self._latest: tuple[bytes, int] = b"", self._root

    def close(self) -> None:
        """Close the folders held open, and the root."""
        self._latest = b"", self._root
        while self._folders:
            os.close(self._folders.popitem()[1])
        os.close(self._root)

    def folder(self, path: bytes) -> int:
        """A descriptor of a folder below the target; missing ones are made, mode 0700 until `finish`."""
        if path == self._latest[0]:
            return self._latest[1]
        found = self._folders.get(path)
        if found is None:
            found = self._open(path)
        else:
            self._folders.move_to_end(path)
        self._latest = path, found  # the last that would be closed to make room
        return found

    def _open(self, path: bytes) -> int:
        if not path:
            return self._root
        above, descriptor = self._deepest_open(path)
        for name in path[len(above) :].strip(b"/").split(b"/"):
            parent, descriptor = descriptor, _open_folder(name, descriptor)
            if parent != self._root and above not in self._folders:
                os.close(parent)
            above = above + b"/" + name if above else name
            if above == path or path.count(b"/") < _DEEP:
                self._folders[above] = descriptor
        while len(self._folders) > _OPEN_FOLDERS:
            os.close(self._folders.popitem(last=False)[1])
        return descriptor

    def _deepest_open(self, path: bytes) -> tuple[bytes, int]:
        """The nearest folder above a path that is held open, and its descriptor."""
        while b"/" in path:
            path = path.rpartition(b"/")[0]
            if path in self._folders:
                self._folders.move_to_end(path)
                return path, self._folders[path]
        return b"", self._root

    def _place(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        return self.folder(above), name

    def existing(self, path: bytes) -> os.stat_result | None:
        """What lies at a path now (not followed), or None."""
        folder, name = self._place(path)
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def create_file(self, path: bytes, mode: int | None = None) -> int:
        """Open a new file (0600 until finished, if no mode is given) for a path.

        It comes under its own name, or under a temporary one where it will replace something.
        """
        folder, name = self._place(path)
        if self._replace:
            name = self._new_temporary(path, folder)
        return os.open(name, _NEW_FILE, 0o600 if mode is None else mode, dir_fd=folder)

    def first_mode(self, node: Node) -> int | None:
        """The mode of a file that may have it from the start, as its owner will not change; None for any other."""
        mode = node.mode
        is_simple = mode & 0o600 == 0o600 and not mode & ~self._given_at_birth
        return mode if is_simple and self._owners.ids(node) == self._own_ids else None

    def reopen_file(self, path: bytes) -> int:
        """Open a file that `create_file` made, to write another piece."""
        folder, name = self._place(path)
        if self._replace:
            name = self._temporary_name(path)
        return os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)

    def finish_file(self, node: Node, descriptor: int, made: int | None = None) -> list[str]:
        """Give a written file its owner, mode, attributes, times and final name; returns complaints.

        `made` is what `first_mode` said and it was created with: with a mode, nothing is left to do about that.
        """
        complaints: list[str] = []
        if made is None:
            mode, complaints = self._own(node, descriptor)
            os.fchmod(descriptor, mode)
        complaints += _set_attributes(node, descriptor)
        _set_times(node, descriptor)
        if self._replace:
            self._put_in_place(node.path)
        return complaints

    def same_file(self, node: Node) -> os.stat_result | None:
        """What lies at a file's path if it may keep its content: a file of this size and time.

        Not where it would become privileged: somebody may have made it to be given setuid or capabilities.
        """
        found = self.existing(node.path)
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        if (found.st_size, found.st_mtime_ns) != (node.size, node.mtime):
            return None
        return found if self._is_owned(node, found) or not _is_privileged(node) else None

    def mend_file(self, node: Node, found: os.stat_result) -> list[str]:
        """Give what `same_file` found its owner, mode and attributes, where they differ; returns complaints."""
        if self._is_owned(node, found) and not node.xattrs:
            return []
        folder, name = self._place(node.path)
        with _pinned(folder, name, lambda status: os.path.samestat(status, found)) as place:
            complaints: list[str] = []
            if not self._is_owned(node, found):
                mode, complaints = self._own(node, place)
                if stat.S_IMODE(os.stat(place).st_mode) != mode:
                    os.chmod(place, mode)
            return complaints + _each_attribute(node.xattrs, lambda key, value: _mend_attribute(place, key, value))

    def _is_owned(self, node: Node, found: os.stat_result) -> bool:
        """Whether owner and mode are as recorded."""
        return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (*self._owners.ids(node), node.mode)

    def abandon_file(self, path: bytes) -> None:
        """Remove a file this restore began and cannot complete."""
        folder, name = self._place(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary_name(path) if self._replace else name, dir_fd=folder)

    def _temporary_name(self, path: bytes) -> bytes:
        name = path.rpartition(b"/")[2]
        return _TEMPORARY + b"%08x-" % zlib.crc32(name) + name[:200]

    def _new_temporary(self, path: bytes, folder: int) -> bytes:
        """The temporary name for a path, free to be used."""
        name = self._temporary_name(path)
        with contextlib.suppress(FileNotFoundError):  # left by a restore that was killed
            os.unlink(name, dir_fd=folder)
        return name

    def _put_in_place(self, path: bytes) -> None:
        """Give what was made under the temporary name its own; a folder there stays and is an OSError."""
        folder, name = self._place(path)
        try:
            os.rename(self._temporary_name(path), name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            self.abandon_file(path)
            raise

    def _own(self, node: Node, place: int | bytes, folder: int | None = None) -> tuple[int, list[str]]:
        """Give an entry its owner; returns the mode it may then have, and complaints.

        Only root can give files away; an ordinary user's restore keeps them, which is no complaint. But what
        ran as its recorded owner must not run as another. In a user namespace root cannot give them to everybody.
        """
        uid, gid = self._owners.ids(node)
        try:
            if (uid, gid) != self._own_ids:
                os.chown(place, uid, gid, dir_fd=folder, follow_symlinks=node.type != "symlink")
        except OSError as error:
            if error.errno not in _NOT_GIVEN:
                raise
            return node.mode & ~_SET_IDS, [f"owner {uid}:{gid} could not be set"] if self._is_root else []
        return node.mode, []

    def make_folder(self, node: Node) -> None:
        """Make sure a folder is there."""
        self.folder(node.path)

    def finish_folder(self, node: Node, *, touch: bool) -> list[str]:
        """Give a folder its owner, mode, attributes and times; `touch` False leaves an existing parent alone."""
        if not touch:
            return []
        descriptor = self.folder(node.path)
        mode, complaints = self._own(node, descriptor)
        os.fchmod(descriptor, mode)
        complaints += _set_attributes(node, descriptor)
        _set_times(node, descriptor)
        return complaints

    def make_other(self, node: Node) -> list[str]:
        """Make a symlink, FIFO or device; raises OSError. Sockets belong to programs and are left out."""
        if node.type == "socket":
            return []
        folder, name = self._place(node.path)
        if self._replace and self.existing(node.path) is not None:
            self._make(node, folder, self._new_temporary(node.path, folder))
            self._put_in_place(node.path)
        else:
            self._make(node, folder, name)
        if node.type == "symlink":
            return self._finish_symlink(node, folder, name)
        with _pinned(folder, name, lambda status: stat.S_IFMT(status.st_mode) == _KINDS[node.type]) as place:
            mode, complaints = self._own(node, place)
            os.chmod(place, mode)
            complaints += _each_attribute(node.xattrs, lambda key, value: os.setxattr(place, key, value))
            if node.mtime is not None:
                os.utime(place, ns=(node.mtime, node.mtime))
        return complaints

    def _make(self, node: Node, folder: int, name: bytes) -> None:
        if node.type == "symlink":
            if node.target is None:
                raise Damaged("a symbolic link without a target")
            os.symlink(node.target, name, dir_fd=folder)
            return
        device = os.makedev(*node.device) if node.device else 0
        os.mknod(name, _KINDS[node.type] | 0o600, device, dir_fd=folder)

    def _finish_symlink(self, node: Node, folder: int, name: bytes) -> list[str]:
        place = b"/proc/self/fd/%d/" % folder + name
        _, complaints = self._own(node, name, folder)
        complaints += _each_attribute(
            node.xattrs, lambda key, value: os.setxattr(place, key, value, follow_symlinks=False)
        )
        if node.mtime is not None:
            os.utime(name, ns=(node.mtime, node.mtime), dir_fd=folder, follow_symlinks=False)
        return complaints

    def link(self, first: bytes, node: Node) -> None:
        """Make an entry a hard link to one restored before; raises OSError."""
        source, source_name = self._place(first)
        folder, name = self._place(node.path)
        there = self.existing(node.path) if self._replace else None
        if there is not None:
            name = self._new_temporary(node.path, folder)
            if os.path.samestat(there, os.stat(source_name, dir_fd=source, follow_symlinks=False)):
                return  # rename does nothing between names of one inode
        os.link(source_name, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        if there is not None:
            self._put_in_place(node.path)


@contextlib.contextmanager
def _pinned(folder: int, name: bytes, is_it: Callable[[os.stat_result], bool]) -> Iterator[bytes]:
    """A path that means this very entry, whatever gets its name meanwhile; raises OSError if that is another already.

    By name, owner and mode would be given to what whoever owns the folder puts there in between.
    """
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not is_it(os.fstat(descriptor)):
            raise OSError(errno.ESTALE, "another program replaced it meanwhile")
        yield b"/proc/self/fd/%d" % descriptor
    finally:
        os.close(descriptor)


def _is_privileged(node: Node) -> bool:
    return bool(node.mode & _SET_IDS) or any(key == b"security.capability" for key, _ in node.xattrs)


def _mend_attribute(place: bytes, key: bytes, value: bytes) -> None:
    with contextlib.suppress(OSError):
        if os.getxattr(place, key) == value:
            return
    os.setxattr(place, key, value)


def _set_times(node: Node, descriptor: int) -> None:
    if node.mtime is not None:
        os.utime(descriptor, ns=(node.mtime, node.mtime))


def _set_attributes(node: Node, descriptor: int) -> list[str]:
    if not node.xattrs:
        return []
    return _each_attribute(node.xattrs, lambda key, value: os.setxattr(descriptor, key, value))


def _each_attribute(xattrs: Iterable[tuple[bytes, bytes]], put: Callable[[bytes, bytes], None]) -> list[str]:
    complaints = []
    for key, value in xattrs:
        try:
            put(key, value)
        except OSError as error:
            complaints.append(f"attribute {key.decode(errors='backslashreplace')}: {error.strerror}")
    return complaints


def write_all(descriptor: int, content: memoryview, position: int) -> None:
    """Write every byte at a position; raises OSError."""
    while content:
        count = os.pwrite(descriptor, content, position)
        if count == len(content):
            return
        content, position = content[count:], position + count
