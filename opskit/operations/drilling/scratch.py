"""The scratch folder of a drill: generated, private, wiped whatever happens.

Invariants: a drill writes below a new folder of mode 0700 with a name of its own (`opskit-drill-` and 12 random
digits), never into a folder that somebody named. It is removed at the end, after a failure and after Ctrl-C; what a
kill -9 left, the next drill removes: only folders of that name and of this user that hold our marker file, that no
living drill has locked (flock), and never through a symbolic link; programs that run on in there are ended first. A
place inside a source or a destination is refused: a backup would read it, or a repository would hold plain text. Wiping
is unlinking: on flash nothing more would be certain; who needs more gives an encrypted disk or a tmpfs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opskit.errors import OpskitError, StoreFull, StoreRefused, UsageError
from opskit.log import logger
from opskit.operations.drilling.checks import HOME, end_strays

log = logger(__name__)

_NAME = re.compile(r"opskit-drill-[0-9a-f]{12}")
_MARKER = "opskit-drill.marker"
_BRANCHES = 256
"""So many folders are enough for two processes to share the wiping."""
_NAMES = 100_000
"""Bytes of names that a program is started with, at most: every Linux takes 128 KiB."""
_GRACE_SECONDS = 10.0
BLOCK = 4096
"""Bytes that an entry takes beside its content, at most, on file systems with blocks of this size."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """A folder of one drill."""

    folder: Path

    @property
    def restored(self) -> Path:
        """Where the snapshot is restored to."""
        return self.folder / "restored"

    def room(self) -> int:
        """Free bytes on its file system."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def require_room(self, files: int, size: int) -> None:
        """Raise StoreFull where there is not room for so many files and bytes."""
        needed, free = size + files * BLOCK, self.room()
        if free < needed:
            raise StoreFull(
                f"the scratch place {self.folder.parent} is too small: expected {needed:,} bytes free, got {free:,}",
                hint="name a larger one by --scratch DIR or drills.scratch, or restore a part: --sample 5%",
            )


@contextmanager
def scratch_in(place: Path) -> Iterator[Scratch]:
    """A new scratch folder below `place` (made where absent, mode 0700), wiped at the end.

    Raises StoreRefused, StoreFull, and OpskitError where it cannot be wiped.
    """
    with translated(place):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(place)
    with translated(place):
        folder = place / f"opskit-drill-{os.urandom(6).hex()}"
        folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with translated(place):
            (folder / _MARKER).write_bytes(b"made by opskit drill; the next drill removes it\n")
        yield Scratch(folder)
    finally:
        try:
            _wipe_for_certain(folder)
        finally:
            os.close(descriptor)


def _wipe_for_certain(folder: Path) -> None:
    try:
        _wipe(folder)
    except KeyboardInterrupt:  # the first: a second one is only answered
        _wipe(folder)
        raise


def sweep(place: Path) -> list[Path]:
    """Remove what drills that were killed left below a place; returns what was removed."""
    removed = []
    with contextlib.suppress(OSError):
        for entry in sorted(os.scandir(place), key=lambda each: each.name):
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                path = Path(entry.path)
                with contextlib.suppress(OSError):  # taken by a living drill, somebody else's, or gone meanwhile
                    _sweep(path)
                    removed.append(path)
                    log.warning("scratch of a drill that was killed removed", folder=str(path))
    return removed


def _sweep(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "another user's")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.listdir(descriptor):
            os.rmdir(path)  # killed before it was marked
            return
        if not stat.S_ISREG(os.stat(_MARKER, dir_fd=descriptor, follow_symlinks=False).st_mode):
            raise PermissionError(errno.EPERM, "not made by a drill")
        end_strays(path / HOME)
        end_strays(path, _GRACE_SECONDS)  # recover.py, which then removes the private key from memory
        _wipe(path)
    finally:
        os.close(descriptor)


def _wipe(folder: Path) -> None:
    """Remove a folder, its marker last: what is left after an interruption or an error is still known for ours."""
    _open_folders(folder)
    _remove_many(folder)
    for entry in list(os.scandir(folder)):
        if entry.name != _MARKER:
            _remove(entry)
    left = set(os.listdir(folder)) - {_MARKER}
    if left:
        raise OpskitError(
            f"the scratch {folder} could not be wiped: {min(left)} is still there",
            hint="remove it by hand: it is plain text",
        )
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / _MARKER)
    os.rmdir(folder)


def _branches(folder: Path) -> list[str]:
    """Folders that hold nearly everything, relative to `folder`, small ones in the middle: two will meet there."""
    found = _folders_in(folder, "")
    while 0 < len(found) < _BRANCHES:
        below = [name for each in found for name in _folders_in(folder, each) or [each]]
        if below == found or sum(len(os.fsencode(each)) + 1 for each in below) > _NAMES:
            break
        found = below
    found.sort(key=lambda each: _weight(folder / each), reverse=True)
    return found[::2] + found[1::2][::-1]


def _weight(folder: Path) -> int:
    """About how much there is to remove: by the size of the folder's list, and the folders in it."""
    try:
        status = os.lstat(folder)
    except OSError:
        return 0
    return status.st_size + status.st_nlink * BLOCK


def _folders_in(top: Path, name: str) -> list[str]:
    with contextlib.suppress(OSError):  # a path too long for the kernel
        with os.scandir(top / name) as entries:
            return [os.path.join(name, each.name) for each in entries if each.is_dir(follow_symlinks=False)]
    return []


def _remove_many(folder: Path) -> None:
    """Remove the folders in a folder by two rm, which take a fifth of the time that Python does.

    One begins at the first branch and one at the last, and both go through all: so neither is idle before all is gone,
    however much one branch holds. What they leave comes after.
    """
    branches, running = _branches(folder), list[subprocess.Popen[bytes]]()
    if not branches:
        return
    try:
        for names in ([*branches, *_folders_in(folder, "")], branches[::-1]):
            running.append(
                subprocess.Popen(
                    ["rm", "-rf", "--one-file-system", "--", *names],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is this process's to answer
                )
            )
        for each in running:
            each.wait()
    except OSError:  # no such program: then it takes longer
        return
    finally:
        for each in running:
            each.kill()
            each.wait()


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(entry.path)


def _open_folders(folder: Path) -> None:
    """Let an ordinary user remove what lies in folders that were restored without the right to write there."""
    if os.geteuid() == 0:
        return
    for _, folders, _, descriptor in os.fwalk(folder):
        for name in folders:  # fwalk enters them after this
            if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                os.chmod(name, 0o700, dir_fd=descriptor)


def require_apart(place: Path, sources: Mapping[str, Path], state: Path) -> None:
    """Raise UsageError for a scratch place inside one of these folders, by device and inode: links do not hide it.

    `sources` are folders by what to call them. The state folder is read by no backup, wherever it lies.
    """
    above = list(_identities_above(place))
    known = _identity(state)
    if known is not None and known in above:
        return
    for name, folder in sources.items():
        found = _identity(folder)
        if found is not None and found in above:
            raise UsageError(
                f"the scratch place {place} lies inside {name} ({folder})",
                hint=f"leave --scratch out ({state / 'scratch'} is used then), or name another folder",
            )


def _identities_above(place: Path) -> Iterator[tuple[int, int]]:
    real = Path(os.path.realpath(place))
    for each in (real, *real.parents):
        found = _identity(each)
        if found is not None:
            yield found


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def translated(place: Path) -> Iterator[None]:
    """Errors of the file system as StoreFull and StoreRefused."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"the scratch place {place} is full", hint="name another by --scratch DIR") from error
        raise StoreRefused(
            f"the scratch place {place} cannot be used: {(error.strerror or 'error').lower()}",
            hint="name a folder that you may write to: --scratch DIR",
        ) from error
