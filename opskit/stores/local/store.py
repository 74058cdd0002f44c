"""A store in a folder: one file an object, on any file system a Linux host can mount.

Invariants:

- A put, in pieces too, writes a hidden temporary file, fsyncs it, gives it its final name in a way that
  cannot replace anything (by a rename, where it is to replace), and fsyncs the folder. So a reader sees
  all bytes or no object, also after a crash.
- Every path is walked part by part from the root folder with O_NOFOLLOW: a symlink planted inside a
  repository leads nowhere. (The root itself may be reached through symlinks; the operator chose it.)
- No descriptor outlives a call, so a medium can be unmounted between runs of a daemon.
- The device first seen below the root is the only one ever used: a disk that falls off during a run
  cannot send the rest of a snapshot into the empty folder under its mount point.

What it deliberately does not do: retry, lock runs against each other, limit bandwidth, check hashes.
File systems that fold case or trailing dots (vfat, exFAT) hold names apart only if they differ otherwise.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from opskit.errors import (
    NotMounted,
    ObjectExists,
    ObjectNotFound,
    ObjectUnreadable,
    StoreError,
    StoreFull,
    StoreRefused,
)
from opskit.stores.base import Buffer, ObjectInfo, Swept, check_name, check_size
from opskit.stores.local.descriptors import closing, is_taken, mode_of, remove_quietly
from opskit.stores.local.publish import WAYS, Unsupported, Way
from opskit.stores.local.reading import read_from, read_into, read_pieces
from opskit.stores.local.scan import FOLDER, scan, scan_folder
from opskit.stores.local.unfinished import sweep, write_unfinished

_UNFINISHED = ".tmp"
# O_NONBLOCK: opening a FIFO that someone put in an object's place must not hang; files ignore it.
_OBJECT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_ROTTEN = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class LocalStore:
    """Objects as files below `root`; see `opskit.stores.base` for the contract.

    `must_be_mounted`: refuse with NotMounted unless a mount point other than "/" is at or above
    `root`. `durable=False` leaves out every fsync: for scratch copies that need not survive a crash.
    """

    def __init__(self, root: Path, *, must_be_mounted: bool = False, durable: bool = True) -> None:
        self.location = str(root)
        self._root = root
        self._must_be_mounted = must_be_mounted
        self._durable = durable
        self._device: int | None = None
        self._settled: set[str] = set()
        self._settling = threading.Lock()
        self._ways: tuple[Way, ...] = WAYS

    def create(self) -> None:
        """Make the root folder (0700) and its parents where absent; the only call that does. May raise StoreError."""
        with self._translated("create", ""):
            if self._must_be_mounted:
                self._require_mount()
            for path in (*reversed(self._root.parents), self._root):
                if not path.exists():
                    with suppress(FileExistsError):
                        path.mkdir(mode=0o700)
                    with closing(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)) as above:
                        self._sync_folder(above)
            with self._opened_root():
                pass

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Store `data` under `name`, atomically and durably; raises ObjectExists (unless to replace), StoreError."""
        self._put(name, (data,), replace=replace)

    def put_pieces(self, name: str, pieces: Iterable[Buffer]) -> int:
        """As `put`, of the bytes that `pieces` give; returns how many. Raises ObjectExists, StoreError."""
        return self._put(name, pieces, replace=False)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, or up to `length` of them from `offset`; raises ObjectNotFound, StoreError."""
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"expected an offset and a length of at least 0, got {offset} and {length}")
        with self._reading(name) as (descriptor, size):
            if length is None:
                check_size(self.location, name, size)
            wanted = max(0, (size if length is None else min(size, offset + length)) - offset)
            data = read_from(descriptor, offset, wanted)
            if len(data) < wanted:
                raise self._cut_short(name, wanted - len(data))
            return data

    def get_into(self, name: str, room: Callable[[int], memoryview]) -> memoryview:
        """All bytes of `name`, in what `room` gives for so many; raises ObjectNotFound, StoreError."""
        with self._reading(name) as (descriptor, size):
            check_size(self.location, name, size)
            given = room(size)
            if missing := size - read_into(descriptor, given):
                raise self._cut_short(name, missing)
            return given

    def pieces(self, name: str) -> Generator[Buffer, None, None]:
        """All bytes of `name`, each piece valid until the next; raises ObjectNotFound, StoreError."""
        with self._reading(name) as (descriptor, size):
            check_size(self.location, name, size)
            for piece in read_pieces(descriptor, size):
                yield piece
                size -= len(piece)
            if size:
                raise self._cut_short(name, size)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose first parts equal `prefix` ("" for all), sorted by name; raises StoreError.

        Hidden files, names that cannot be objects ("lost+found", "System Volume Information") and
        whatever is not a regular file are no objects and are passed over.
        """
        if prefix:
            check_name(prefix)
        return self._listed(prefix)

    def delete(self, name: str) -> None:
        """Remove `name`, durably; raises ObjectNotFound, StoreError."""
        check_name(name)
        parent, _, leaf = name.rpartition("/")
        with self._translated("delete", name), self._opened_root() as root:
            try:
                with closing(self._open_folder(root, parent)) as folder:
                    self._require_file(name, mode_of(folder, leaf))
                    os.unlink(leaf, dir_fd=folder)
                    self._sync_folder(folder)
            except FileNotFoundError as error:
                raise self._not_found(name) from error

    def sweep(self, *, now: float, older_than: float, dry_run: bool = False) -> Swept:
        """Remove what killed puts left behind, see Sweepable. May raise StoreError."""
        with self._translated("clean", ""), self._opened_root() as root:
            with suppress(FileNotFoundError), closing(self._open_folder(root, _UNFINISHED)) as unfinished:
                return sweep(unfinished, now=now, older_than=older_than, dry_run=dry_run)
        return Swept()

    # Folders: every step is checked, none is followed

    @contextmanager
    def _opened_root(self) -> Iterator[int]:
        """The root folder, on the medium it should be on; raises StoreError, NotMounted."""
        if self._must_be_mounted and self._device is None:
            self._require_mount()
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError as error:
            if self._must_be_mounted:
                self._require_mount()
            raise StoreError(
                f"{self.location}: expected a folder, got nothing: the folder is absent",
                hint="mount the medium, or correct the path; a new medium there: opskit init --destination NAME=PATH",
            ) from error
        except NotADirectoryError as error:
            raise self._misplaced("", "a folder", "a file") from error
        with closing(root):
            self._require_same_device(os.fstat(root).st_dev)
            yield root

    def _require_mount(self) -> None:
        """Raise NotMounted unless some mount point other than "/" is at or above the root."""
        place = Path(os.path.realpath(self._root))
        if not any(os.path.ismount(path) for path in (place, *place.parents)[:-1]):
            nearest = next(path for path in (place, *place.parents) if path.exists())
            raise NotMounted(
                f"{self.location}: not mounted at {nearest}", hint="attach the medium, mount it and run this again"
            )

    def _require_same_device(self, device: int) -> None:
        if self._device is None:
            self._device = device
        if device != self._device:
            if self._must_be_mounted:
                self._require_mount()
            raise NotMounted(
                f"{self.location}: expected the medium this run began with (device {self._device}), got {device}",
                hint="it was unmounted or exchanged meanwhile; mount it and run this again",
            )

    def _open_folder(self, root: int, path: str, *, make: bool = False) -> int:
        """A new descriptor of the folder at `path` below `root`; FileNotFoundError unless `make`."""
        current = os.dup(root)
        try:
            for part in path.split("/") if path else ():
                below = self._step(current, part, make)
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        return current

    def _step(self, above: int, part: str, make: bool) -> int:
        try:
            return os.open(part, FOLDER, dir_fd=above)
        except FileNotFoundError:
            if not make:
                raise
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise self._misplaced(part, "a folder", "a symlink or file") from error
            raise
        with suppress(FileExistsError):  # another thread was quicker
            os.mkdir(part, 0o700, dir_fd=above)
        return os.open(part, FOLDER, dir_fd=above)

    def _settle(self, root: int, parent: str) -> None:
        """Make the folders that lead to `parent` durable, once each in the life of this store.

        Also those found in place: a run that was killed may have made them and not come to the fsync.
        One fsync covers every folder seen before it, so all of those are noted.
        """
        if not parent or not self._durable or parent in self._settled:
            return
        above = parent.rpartition("/")[0]
        self._settle(root, above)
        with self._settling:
            if parent in self._settled:
                return
            with closing(self._open_folder(root, above)) as folder:
                with os.scandir(folder) as entries:
                    present = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
                self._sync_folder(folder)
            self._settled.update(f"{above}/{leaf}" if above else leaf for leaf in present)

    # Writing

    def _put(self, name: str, pieces: Iterable[Buffer], *, replace: bool) -> int:
        check_name(name)
        parent, _, leaf = name.rpartition("/")
        with (
            self._translated("write", name),
            self._opened_root() as root,
            closing(self._open_folder(root, parent, make=True)) as folder,
        ):
            if not replace and is_taken(folder, leaf):
                self._refuse_taken(folder, name)
            with closing(self._open_folder(root, _UNFINISHED, make=True)) as unfinished:
                temporary, size = write_unfinished(unfinished, pieces, durable=self._durable)
                try:
                    self._settle(root, parent)
                    if replace:
                        os.rename(temporary, leaf, src_dir_fd=unfinished, dst_dir_fd=folder)
                        self._sync_folder(unfinished)
                    else:
                        self._publish(unfinished, temporary, folder, leaf)
                except FileExistsError:
                    self._refuse_taken(folder, name)
                finally:
                    # A link leaves it behind, and so does every failure; a rename took it away.
                    remove_quietly(unfinished, temporary)
            self._sync_folder(folder)
        return size

    def _publish(self, unfinished: int, temporary: str, folder: int, leaf: str) -> None:
        """Give the finished file its name by the best way this file system has (FileExistsError if taken)."""
        while True:
            ways = self._ways
            try:
                is_moved = ways[0](unfinished, temporary, folder, leaf)
            except Unsupported:
                # Remembered, so that a stick is asked once. Every way is safe, so a race here is harmless.
                self._ways = ways[1:]
                continue
            if is_moved:
                # Without a journal (vfat) the old name could outlive a power cut together with the new one,
                # and removing it later would free the blocks of a good object. So the old name goes first.
                self._sync_folder(unfinished)
            return

    def _refuse_taken(self, folder: int, name: str) -> NoReturn:
        """Raise ObjectExists for a taken name, once the object there is as durable as a put of our own.

        Whoever stored it may have been killed between naming it and the fsync of the folder, and the
        caller is about to rely on it.
        """
        mode = mode_of(folder, name.rpartition("/")[2])
        if stat.S_ISDIR(mode):
            raise self._misplaced(name, "a free name", "a folder")
        self._require_file(name, mode)
        self._sync_folder(folder)
        raise ObjectExists(f"{self.location}: {name}: expected a free name, got an object stored earlier")

    def _sync_folder(self, folder: int) -> None:
        if not self._durable:
            return
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno != errno.EINVAL:  # CIFS and its like: names there are the server's business
                raise

    # Reading

    def _open_object(self, root: int, name: str) -> int:
        parent, _, leaf = name.rpartition("/")
        try:
            with closing(self._open_folder(root, parent)) as folder:
                # Looked at first: opening a device or a FIFO is an act of its own.
                self._require_file(name, mode_of(folder, leaf))
                return os.open(leaf, _OBJECT, dir_fd=folder)
        except FileNotFoundError as error:
            raise self._not_found(name) from error

    @contextmanager
    def _reading(self, name: str) -> Iterator[tuple[int, int]]:
        """An object, open, and its size in bytes; raises ObjectNotFound, and StoreError for what fails meanwhile."""
        check_name(name)
        with (
            self._translated("read", name),
            self._opened_root() as root,
            closing(self._open_object(root, name)) as descriptor,
        ):
            yield descriptor, os.fstat(descriptor).st_size

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._translated("list", prefix), self._opened_root() as root:
            if not prefix:
                yield from scan(root, "", 1)
                return
            parent, _, leaf = prefix.rpartition("/")
            try:
                folder = self._open_folder(root, parent)
            except FileNotFoundError:
                return
            with closing(folder):
                yield from self._scan_entry(folder, leaf, prefix)

    def _scan_entry(self, folder: int, leaf: str, prefix: str) -> Iterator[ObjectInfo]:
        """What a prefix that was asked for stands for: the objects of a folder, or one object, or nothing."""
        try:
            status = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            yield from scan_folder(folder, leaf, f"{prefix}/", prefix.count("/") + 2)
        else:
            self._require_file(prefix, status.st_mode)
            yield ObjectInfo(prefix, status.st_size, status.st_mtime)

    # Errors

    @contextmanager
    def _translated(self, verb: str, name: str) -> Iterator[None]:
        """Turn an error of the medium into a StoreError of its kind."""
        try:
            yield
        except OSError as error:
            what = f"{self.location}: cannot {verb}{' ' + name if name else ''}: {error.strerror or error}"
            if error.errno in _FULL:
                raise StoreFull(what, hint="free some space there, or move to a larger medium") from error
            if error.errno in _REFUSED:
                raise StoreRefused(what, hint="check owner, permissions and mount options of that folder") from error
            kind = ObjectUnreadable if verb == "read" and error.errno in _ROTTEN else StoreError
            raise kind(what, hint="check the medium and the kernel log, then run opskit verify") from error

    def _require_file(self, name: str, mode: int) -> None:
        """Raise unless `mode` is that of a regular file; a folder is no object, anything else is an intrusion."""
        if stat.S_ISDIR(mode):
            raise self._not_found(name)
        if not stat.S_ISREG(mode):
            raise self._misplaced(name, "an object", "a symlink" if stat.S_ISLNK(mode) else "a special file")

    def _not_found(self, name: str) -> ObjectNotFound:
        return ObjectNotFound(
            f"{self.location}: {name}: expected an object, got nothing", hint="run opskit verify to see what is missing"
        )

    def _cut_short(self, name: str, wanted: int) -> StoreError:
        return StoreError(
            f"{self.location}: {name}: expected {wanted} more bytes, got the end of the file",
            hint="something else writes in this repository; run opskit verify",
        )

    def _misplaced(self, name: str, expected: str, got: str) -> StoreRefused:
        return StoreRefused(
            f"{self.location}: {name + ': ' if name else ''}expected {expected}, got {got}",
            hint="opskit never makes one there; find out who did, and move it away",
        )
