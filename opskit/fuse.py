"""Shows a view of snapshots as a read-only folder: the one owner of mfusepy, and with it of libfuse.

Invariants: the kernel mounts it read-only, without set-uid programs and devices; only who mounted it gets in, unless
others are let in, and then the kernel holds them to the permissions of the entries. What cannot be read is an I/O
error and told once; a wrong byte never leaves. SIGINT, SIGTERM, SIGHUP and unmounting end it in order, busy or not.

libfuse 3 is preferred, libfuse 2 is taken. It deliberately decides nothing about snapshots.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import re
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from opskit.errors import NoKey, OpskitError, ProgramMissing, SnapshotNotFound, StoreRefused, UsageError
from opskit.operations.mounting.file import OpenFile
from opskit.operations.mounting.view import Entry, View
from opskit.sources.base import printable

Tell = Callable[[str], None]

_DEVICE = Path("/dev/fuse")
_TABLE = Path("/proc/self/mounts")
_CONF = Path("/etc/fuse.conf")
_LIBRARIES = ("libfuse3.so.3", "libfuse3.so.4", "libfuse.so.2")
_CHOSEN = "FUSE_LIBRARY_PATH"
"""How mfusepy is told which library to load; without it, it takes the older one where both are there."""
_STAYS = 86_400
"""Seconds for which the kernel need not ask again: nothing ever changes."""
_THREADS = 8
_INSTALL = "apt-get install fuse3 (Debian, Ubuntu), dnf install fuse3 (Fedora)"
_TYPES = {
    "file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO,
    "char": stat.S_IFCHR, "block": stat.S_IFBLK, "socket": stat.S_IFSOCK,
}  # fmt: skip
_BLOCK = 512
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_MOST_TOLD = 10_000


def check(point: Path, *, allow_other: bool) -> None:
    """Make sure that something can be mounted there; raises UsageError, ProgramMissing, OpskitError."""
    _library()
    _check_device()
    _check_point(point)
    if os.geteuid() == 0:
        return
    if not os.access(point, os.W_OK):
        raise UsageError(f"{point} is not yours to mount on: expected a folder that you may write to")
    if shutil.which("fusermount3") is None and shutil.which("fusermount") is None:
        raise ProgramMissing("the program fusermount3 is needed to mount as a user, got none", hint=_INSTALL)
    if allow_other and not _users_may_allow_others():
        raise UsageError(
            f"--allow-other: expected user_allow_other in {_CONF}, got none",
            hint="the administrator of this machine decides that; without --allow-other the folder is yours alone",
        )


def serve(view: View, point: Path, *, allow_other: bool, ready: Callable[[], None], tell: Tell) -> None:
    """Mount and answer until somebody unmounts or a signal comes; `ready` is called when the folder is there.

    `tell` hears what could not be read, each once. Raises OpskitError where it cannot be mounted.
    """
    library = _library()
    answers = _Answers(view, ready, tell)
    options: dict[str, object] = {
        "foreground": True, "ro": True, "nosuid": True, "nodev": True, "fsname": "opskit", "subtype": "opskit",
        "use_ino": True, "kernel_cache": True,
        "attr_timeout": _STAYS, "entry_timeout": _STAYS, "negative_timeout": _STAYS,
    }  # fmt: skip
    if allow_other:
        options |= {"allow_other": True, "default_permissions": True}
    if library.fuse_version_major == 3:
        options["max_idle_threads"] = _THREADS  # 3.14 complains of its own default
    with _signals_left_to_libfuse(), _same_folder():
        try:
            library.FUSE(answers, str(point), **options)
        except RuntimeError as error:
            # a number: of a signal that ended it, or of a mount that failed, which libfuse has explained on stderr
            if not answers.was_mounted:
                raise OpskitError(
                    f"{point} could not be mounted: libfuse ended with {error}",
                    hint="what libfuse or fusermount3 said above is the reason",
                ) from error


def _library() -> Any:
    """mfusepy, with the newest libfuse that is here. Raises ProgramMissing."""
    if _CHOSEN not in os.environ:
        for name in _LIBRARIES:
            with contextlib.suppress(OSError):
                ctypes.CDLL(name)
                os.environ[_CHOSEN] = name
                break
    try:
        import mfusepy
    except ModuleNotFoundError as error:
        raise ProgramMissing(
            "opskit mount needs the Python package mfusepy, got none", hint="pip install 'opskit[mount]'"
        ) from error
    except (OSError, AttributeError) as error:
        raise ProgramMissing(f"opskit mount needs libfuse: {str(error).lower()}", hint=_INSTALL) from error
    return mfusepy


def _check_device() -> None:
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        if os.geteuid() == 0 or not shutil.which("fusermount3"):
            raise StoreRefused(
                f"{_DEVICE} may not be opened: {(error.strerror or '').lower()}", hint=_CONTAINER
            ) from error
    except OSError as error:
        raise ProgramMissing(
            f"{_DEVICE} cannot be opened: {(error.strerror or 'error').lower()}", hint=_CONTAINER
        ) from error


_CONTAINER = (
    "modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN. Without FUSE: opskit ls and opskit restore"
)


def _check_point(point: Path) -> None:
    try:
        status = os.stat(point)
        names = os.listdir(point) if stat.S_ISDIR(status.st_mode) else None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise UsageError(
                f"{point} is what a mount that was killed has left", hint=f"fusermount3 -u {point}, then once more"
            ) from error
        hint = f"mkdir {point}" if error.errno == errno.ENOENT else None
        raise UsageError(f"cannot mount at {point}: {(error.strerror or 'error').lower()}", hint=hint) from error
    if names is None:
        raise UsageError(f"cannot mount at {point}: expected a folder, got something else")
    if os.fsencode(point) in _mounted():
        raise UsageError(f"opskit is mounted at {point} already", hint=f"to end that: fusermount3 -u {point}")
    if names:
        raise UsageError(f"{point} is not empty: expected an empty folder to mount on")


def _mounted() -> set[bytes]:
    """Where file systems of opskit are mounted."""
    found = set()
    with contextlib.suppress(OSError):
        for line in _TABLE.read_bytes().splitlines():
            _, place, kind, *_ = line.split(b" ")
            if kind == b"fuse.opskit":
                found.add(_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), place))
    return found


def _users_may_allow_others() -> bool:
    with contextlib.suppress(OSError):
        return any(line.strip() == "user_allow_other" for line in _CONF.read_text(errors="replace").splitlines())
    return False


@contextlib.contextmanager
def _signals_left_to_libfuse() -> Iterator[None]:
    """libfuse takes a signal only where nobody else does, and Python's handlers could not run while it waits."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in former.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _same_folder() -> Iterator[None]:
    """libfuse goes to the root folder."""
    folder = os.getcwd()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(folder)


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _answering(act: Callable[Concatenate[_Answers, str, _P], _T]) -> Callable[Concatenate[_Answers, str, _P], _T]:
    """An answer to the kernel, which fails with a number: what was thrown is told, but for what is not there."""

    @functools.wraps(act)
    def guarded(self: _Answers, path: str, /, *rest: _P.args, **named: _P.kwargs) -> _T:
        with self.failing_with_numbers(path):
            return act(self, path, *rest, **named)

    return guarded


class _Answers:
    """What mfusepy calls, from threads of libfuse. Names, bytes in a snapshot, come as Python decodes them."""

    use_ns = True

    def __init__(self, view: View, ready: Callable[[], None], tell: Tell) -> None:
        self._view, self._ready, self._tell = view, ready, tell
        self._told: set[str] = set()
        self._files: dict[int, OpenFile] = {}
        self._folders: dict[int, _Listing] = {}
        self._handles = count(1)
        self.was_mounted = False

    @contextlib.contextmanager
    def failing_with_numbers(self, path: str) -> Iterator[None]:
        """Give every failure the number that the kernel knows it by."""
        try:
            yield
        except (LookupError, SnapshotNotFound):
            raise OSError(errno.ENOENT, path) from None
        except UsageError:
            raise OSError(errno.EISDIR, path) from None
        except OSError:
            raise
        except Exception as error:
            self._complain(path, error)
            raise OSError(errno.EACCES if isinstance(error, NoKey) else errno.EIO, path) from error

    def _complain(self, path: str, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(text)
            self._tell(f"{printable(path.encode('utf-8', 'surrogateescape'))} cannot be read: {text}")

    def init_with_config(self, _connection: object, _config: object) -> None:
        """The folder is there."""
        self.was_mounted = True
        self._ready()

    @_answering
    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """What stat(2) tells."""
        return _attributes(self._found(path))

    @_answering
    def readlink(self, path: str) -> str:
        """Where a symbolic link points."""
        return (self._found(path).node.target or b"").decode("utf-8", "surrogateescape")

    @_answering
    def listxattr(self, path: str) -> list[str]:
        """The names of extended attributes."""
        return [name.decode("utf-8", "surrogateescape") for name, _ in self._found(path).node.xattrs]

    @_answering
    def getxattr(self, path: str, name: str, _position: int = 0) -> bytes:
        """The value of an extended attribute."""
        wanted = name.encode("utf-8", "surrogateescape")
        for each, value in self._found(path).node.xattrs:
            if each == wanted:
                return value
        raise OSError(errno.ENODATA, name)

    @_answering
    def open(self, path: str, _flags: int) -> int:
        """A handle of a file."""
        handle = next(self._handles)
        self._files[handle] = self._view.open(_inner(path))
        return handle

    @_answering
    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        """Bytes of a file."""
        return self._files[handle].read(offset, size)

    def release(self, _path: str, handle: int) -> int:
        """The handle is not used any more."""
        self._files.pop(handle, None)
        return 0

    @_answering
    def opendir(self, path: str) -> int:
        """A handle of a folder."""
        handle = next(self._handles)
        self._folders[handle] = _Listing(functools.partial(self._view.children, _inner(path)))
        return handle

    def readdir_with_offset(self, path: str, offset: int, handle: int) -> Iterator[tuple[str, dict[str, int], int]]:
        """The entries of a folder from an offset on, as many as are asked for."""
        with self.failing_with_numbers(path):
            yield from self._folders[handle].after(offset)

    def releasedir(self, _path: str, handle: int) -> int:
        """The handle is not used any more."""
        self._folders.pop(handle, None)
        return 0

    def statfs(self, _path: str) -> dict[str, int]:
        """A full file system of the size of what is in it."""
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": -(-self._view.size() // 4096), "f_namemax": 255}

    def _found(self, path: str) -> Entry:
        entry = self._view.find(_inner(path))
        if entry is None:
            raise LookupError(path)
        return entry


class _Listing:
    """A folder being listed: goes on where it stopped; only who goes back makes it begin anew."""

    def __init__(self, begin: Callable[[], Iterator[tuple[bytes, Entry]]]) -> None:
        self._begin = begin
        self._items = self._all()
        self._last: tuple[str, dict[str, int], int] | None = None

    def after(self, offset: int) -> Iterator[tuple[str, dict[str, int], int]]:
        """The entries behind an offset, each with its own; the last one given may not have found room."""
        at = self._last[2] if self._last else 0
        if self._last is not None and offset == at - 1:
            yield self._last
        elif offset != at:
            self._items = self._all()
        for item in self._items:
            self._last = item
            if item[2] > offset:
                yield item

    def _all(self) -> Iterator[tuple[str, dict[str, int], int]]:
        yield ".", {"st_mode": stat.S_IFDIR}, 1
        yield "..", {"st_mode": stat.S_IFDIR}, 2
        for number, (name, entry) in enumerate(self._begin(), start=3):
            kind = {"st_mode": _TYPES[entry.node.type], "st_ino": entry.inode}
            yield name.decode("utf-8", "surrogateescape"), kind, number


def _inner(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape").strip(b"/")


def _attributes(entry: Entry) -> dict[str, int]:
    node = entry.node
    size = len(node.target or b"") if node.type == "symlink" else node.size
    held = size - sum(length for _, length in node.holes)
    time = node.mtime or 0
    return {
        "st_mode": _TYPES[node.type] | node.mode,
        "st_ino": entry.inode,
        "st_nlink": entry.links,
        "st_uid": node.uid,
        "st_gid": node.gid,
        "st_rdev": os.makedev(*node.device) if node.device is not None else 0,
        "st_size": size,
        "st_blksize": 4096,
        "st_blocks": -(-held // _BLOCK),
        "st_atime": time,
        "st_mtime": time,
        "st_ctime": time,
    }
