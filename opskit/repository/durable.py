"""Small files of the host's state and config that must survive a power cut, written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.errors import OpskitError, UsageError

_LEFT = re.compile(r"\.[a-z0-9_]{8}\.new")
"""What follows the name of a file in that of what is about to replace it."""


def write_durably(path: Path, data: bytes, *, like_before: bool = False) -> None:
    """Replace a file (mode 0600): temporary name, fsync, rename, fsync of the folder. Raises OpskitError.

    With `like_before` a file of people's: a symbolic link stays one, and mode and owner stay what they were.
    """
    with _translated(path):
        if like_before:
            path = Path(os.path.realpath(path))
        temporary = _write_beside(path, data, path if like_before else None)
        os.replace(temporary, path)
        sync_folder(path.parent)


def create_durably(path: Path, data: bytes) -> None:
    """The same for a file that must not be there yet; raises UsageError where it is."""
    with _translated(path):
        temporary = _write_beside(path, data)
        try:
            os.link(temporary, path)
        except FileExistsError as error:
            raise UsageError(f"{path} is there already: another run has just made it") from error
        finally:
            os.unlink(temporary)
        sync_folder(path.parent)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes that say so too from the files beside `path` meanwhile. May raise OpskitError."""
    with _translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # let go by the kernel, whatever becomes of this process
        yield
    finally:
        os.close(folder)


def write_alone(path: Path, data: bytes, *, like_before: bool = False) -> None:
    """`write_durably` for whoever is `alone`: what one that was killed left beside `path` goes, as it may be secret."""
    write_durably(path, data, like_before=like_before)
    target = Path(os.path.realpath(path))
    with _translated(path):
        for each in target.parent.iterdir():
            if each.name.startswith(target.name) and _LEFT.fullmatch(each.name, len(target.name)):
                each.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raise what `write_durably` would, as far as that can be known before; makes the folder."""
    with _translated(path):
        os.unlink(_write_beside(Path(os.path.realpath(path)), b""))


def _write_beside(path: Path, data: bytes, model: Path | None = None) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A name of its own, mode 0600: two processes that write one file must not write into one another.
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if model is not None:
                _take_after(file.fileno(), model)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(temporary)
        raise
    return Path(temporary)


def _take_after(file: int, model: Path) -> None:
    """Owner and mode of a file, by descriptor: by name, who may rename in that folder had root give away another."""
    with contextlib.suppress(FileNotFoundError):
        found = model.stat()
        with contextlib.suppress(PermissionError):  # only root gives files away
            os.fchown(file, found.st_uid, found.st_gid)
        os.fchmod(file, found.st_mode & 0o777)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable; raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OpskitError(
            f"{path} cannot be written: {(error.strerror or 'error').lower()}",
            hint="free space in that folder, or mend its permissions, then run the command again",
        ) from error
