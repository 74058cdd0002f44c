"""A program of the standard library alone: reads restored files back and compares them. Started by `comparing`.

`reread.py FOLDER IS_ROOT`; standard input has batches of records as `expected` writes them, standard output gets what
was found, marshalled. Folders are entered one by one without following a symbolic link, so nothing outside FOLDER is
ever looked at. Where IS_ROOT is 0 owners are not compared, nor set-id bits and attributes that only root can give: an
ordinary user's restore cannot bring them back, which is no fault of a copy.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import marshal
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # loading it takes as long as starting Python
    from typing import IO, Any

MAGIC = b"SQLite format 3\0"
_KINDS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HELD = 64
_SMALL = 64 * 1024
_PLAIN = 7
"""How many things the record of an ordinary file tells: path, mode, uid, gid, mtime, size, chunk id."""
_LARGEST_CHUNK = 8 * 1024 * 1024
_DIFFERS = "its content differs from what was backed up"


class _Way:
    """The folder entered last (`folder`, at `path`), and those above it, held open: entries come as in a walk.

    Folders are entered one by one, without following a symbolic link. Of a long way only the first _HELD are held.
    """

    def __init__(self, root: int) -> None:
        self.path: bytes | None = b""
        self.folder = root
        self._held, self._names = [root], [b""]
        self._is_loose = False

    def to(self, path: bytes) -> int:
        """A descriptor of the folder, valid until the next call; raises OSError."""
        names = [b"", *path.split(b"/")] if path else [b""]
        if self._is_loose:
            os.close(self.folder)
        self.path, self._is_loose = None, False  # until it is reached
        self._leave(names)
        folder, is_loose = self._held[-1], False
        for name in names[len(self._names) :]:
            parent = folder
            try:
                folder = os.open(name, _FOLDER, dir_fd=parent)
            finally:
                if is_loose:
                    os.close(parent)
            is_loose = len(self._held) >= _HELD
            if not is_loose:
                self._held.append(folder)
                self._names.append(name)
        self.path, self.folder, self._is_loose = path, folder, is_loose
        return folder

    def _leave(self, names: list[bytes]) -> None:
        """Close the folders that do not lie on the way to another."""
        while self._names != names[: len(self._names)]:
            os.close(self._held.pop())
            self._names.pop()


class Reread:
    """Looks at entries, and keeps what it found."""

    def __init__(self, root: int, is_root: bool) -> None:
        self.entries = self.bytes = 0
        self.contents: list[tuple[bytes, str]] = []
        self.metadata: list[tuple[bytes, str]] = []
        self.databases: list[bytes] = []
        self._root, self._is_root = root, is_root
        self._mask = 0o170000 | (0o7777 if is_root else 0o1777)
        self._way = _Way(root)
        self._buffer = memoryview(bytearray(_LARGEST_CHUNK))

    def found(self) -> tuple[Any, ...]:
        """Everything, for marshal."""
        return self.entries, self.bytes, self.contents, self.metadata, self.databases

    def look(self, path: bytes, about: Any, content: Any, holes: Any) -> None:
        """Compare one entry of any kind, or one share of a large file."""
        self.entries += about is not None
        if about is not None and about[0] == "socket":
            return  # sockets belong to programs, and are not restored
        try:
            if about is not None and (about[0] != "file" or about[9]):
                self._look_plain(path, about)
            else:
                self._look_file(path, about, content, holes)
        except FileNotFoundError:
            self._wrong(path, "it is not there")
        except OSError as error:
            self._wrong(path, f"it cannot be read: {error.strerror}")

    def look_plain(
        self, path: bytes, mode: int, uid: int, gid: int, mtime: int | None, expected: int, chunk_id: bytes
    ) -> None:
        """Compare an ordinary file of one chunk: nearly all are, and right, so this is short. The long way tells what
        is wrong."""
        try:
            if self._is_right_file(path, mode, uid, gid, mtime, expected, chunk_id):
                self.entries += 1
                return
        except OSError:
            pass
        self.look(path, ("file", mode, uid, gid, mtime, expected, None, None, [], b""), chunk_id, None)

    def _is_right_file(
        self, path: bytes, mode: int, uid: int, gid: int, mtime: int | None, size: int, chunk_id: bytes
    ) -> bool:
        above, _, name = path.rpartition(b"/")
        way = self._way
        descriptor = os.open(name, _FILE, dir_fd=way.folder if way.path == above else way.to(above))
        try:
            found = os.fstat(descriptor)
            if (
                found.st_size != size
                or size > _LARGEST_CHUNK
                or (found.st_mode ^ (mode | stat.S_IFREG)) & self._mask
                or found.st_mtime_ns != mtime
                or (self._is_root and (found.st_uid != uid or found.st_gid != gid))
            ):
                return False
            data: bytes | memoryview = b""
            if size <= _SMALL:
                data = os.read(descriptor, size)
            else:  # into memory that is there: fresh memory costs more than the copying
                data = self._buffer[: os.preadv(descriptor, [self._buffer[:size]], 0)]
        finally:
            os.close(descriptor)
        if hashlib.sha256(data).digest() != chunk_id:
            return False
        self.bytes += size
        if data[: len(MAGIC)] == MAGIC:
            self.databases.append(path)
        return True

    def _wrong(self, path: bytes, what: str) -> None:
        self.contents.append((path, what))

    def _look_plain(self, path: bytes, about: Any) -> None:
        """Anything without content of its own to compare: folders, links, devices, further names of a file."""
        above, _, name = path.rpartition(b"/")
        folder = self._way.to(above)
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        kind, first = about[0], about[9]
        if stat.S_IFMT(found.st_mode) != _KINDS[kind]:
            self._wrong(path, f"expected a {kind}, found something else")
            return
        if kind == "symlink" and os.readlink(name, dir_fd=folder) != about[6]:
            self._wrong(path, "the symbolic link leads elsewhere")
        if kind in ("char", "block") and (os.major(found.st_rdev), os.minor(found.st_rdev)) != tuple(about[7]):
            self._wrong(path, "the device has other numbers")
        place = b"/proc/self/fd/%d/%s" % (folder, name)
        self._look_metadata(path, about, found, place)
        if first:
            above, _, name = first.rpartition(b"/")
            if not os.path.samestat(found, os.stat(name, dir_fd=self._way.to(above), follow_symlinks=False)):
                self._wrong(path, "it is no hard link to " + first.decode("utf-8", "backslashreplace"))

    def _look_file(self, path: bytes, about: Any, content: Any, holes: Any) -> None:
        above, _, name = path.rpartition(b"/")
        descriptor = os.open(name, _FILE, dir_fd=self._way.to(above))
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                self._wrong(path, "expected a file, found something else")
                return
            if about is not None:
                if found.st_size != about[5]:
                    self._wrong(path, f"expected {about[5]:,} bytes, found {found.st_size:,}")
                    return
                self._look_metadata(path, about, found, b"/proc/self/fd/%d" % descriptor)
            if isinstance(content, bytes):
                self._look_small(path, descriptor, found.st_size, content)
                return
            if about is not None:
                self._look_magic(path, os.pread(descriptor, len(MAGIC), 0))
            if not all(self._is_right(descriptor, *each) for each in content):
                self._wrong(path, _DIFFERS)
            elif not all(_is_empty(descriptor, *hole) for hole in holes or ()):
                self._wrong(path, "there are bytes where a hole was")
        finally:
            os.close(descriptor)

    def _look_small(self, path: bytes, descriptor: int, size: int, chunk_id: bytes) -> None:
        """A file of one chunk, which nearly all are: read once."""
        read = self._buffer[:size]
        if (
            size > _LARGEST_CHUNK
            or os.preadv(descriptor, [read], 0) != size
            or hashlib.sha256(read).digest() != chunk_id
        ):
            self._wrong(path, _DIFFERS)
        else:
            self.bytes += size
            self._look_magic(path, read[: len(MAGIC)])

    def _is_right(self, descriptor: int, chunk_id: bytes, places: list[tuple[int, int]]) -> bool:
        digest = hashlib.sha256()
        for position, length in places:
            while length:
                count = os.preadv(descriptor, [self._buffer[: min(length, _LARGEST_CHUNK)]], position)
                if count == 0:
                    return False
                digest.update(self._buffer[:count])
                position, length = position + count, length - count
                self.bytes += count
        return digest.digest() == chunk_id

    def _look_magic(self, path: bytes, start: bytes | memoryview) -> None:
        if start == MAGIC:
            self.databases.append(path)

    def _look_metadata(self, path: bytes, about: Any, found: os.stat_result, place: bytes) -> None:
        kind, mode, uid, gid, mtime, _, _, _, xattrs, _ = about
        wrong = []
        mask = 0o7777 if self._is_root else 0o1777
        if kind != "symlink" and (found.st_mode ^ mode) & mask:
            wrong.append(f"mode {stat.S_IMODE(found.st_mode):o}, expected {mode:o}")
        if self._is_root and (found.st_uid, found.st_gid) != (uid, gid):
            wrong.append(f"owner {found.st_uid}:{found.st_gid}, expected {uid}:{gid}")
        if mtime is not None and found.st_mtime_ns != mtime:
            wrong.append("another time of modification")
        for key, value in xattrs:
            if not self._is_root and not key.startswith(b"user."):
                continue
            try:
                if os.getxattr(place, key, follow_symlinks=kind != "symlink") == value:
                    continue
            except OSError:
                pass
            wrong.append("another " + key.decode("utf-8", "backslashreplace"))
        if wrong:
            self.metadata.append((path, "; ".join(wrong)))


def _is_empty(descriptor: int, position: int, length: int) -> bool:
    """Whether a stretch of a file reads as zeros."""
    try:
        if os.lseek(descriptor, position, os.SEEK_DATA) >= position + length:
            return True
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from here to the end
            return True
    while length:
        data = os.pread(descriptor, min(length, 1024 * 1024), position)
        if not data or data.count(0) != len(data):
            return False
        position, length = position + len(data), length - len(data)
    return True


def main(arguments: list[str], source: IO[bytes], output: IO[bytes]) -> None:
    """Compare everything that `source` tells."""
    gc.disable()  # there are no cycles, and looking for some takes a tenth of the time
    root = os.open(arguments[0], _FOLDER)
    reread = Reread(root, arguments[1] == "1")
    while head := source.read(8):
        for record in marshal.loads(source.read(int.from_bytes(head, "big"))):
            if len(record) == _PLAIN:
                reread.look_plain(*record)
            else:
                reread.look(*record)
    marshal.dump(reread.found(), output)
    output.flush()


if __name__ == "__main__":
    main(sys.argv[1:], sys.stdin.buffer, sys.stdout.buffer)
