"""The target folder of a restore: whether it may be used, making it, and what to say when it cannot be written.

Nothing is made before there is something to restore, so a mistaken pattern leaves nothing behind. What is
written in the folder, and how, is module `restoring.target`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from opskit.errors import OpskitError, StoreFull, StoreRefused, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT)


def check_target(target: Path, *, empty: bool) -> None:
    """Raise what `open_target` would for a target that is there already; makes nothing."""
    try:
        if target.is_dir():
            if empty and any(target.iterdir()):
                raise UsageError(
                    f"the target {target} is not empty",
                    hint="choose an empty folder, or say --overwrite if-changed or --overwrite always",
                )
        elif os.path.lexists(target):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise unusable(target, error) from error


def open_target(target: Path, *, empty: bool) -> int:
    """Open (and make) the target folder; raises UsageError, StoreRefused, StoreFull."""
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)  # as recover.py does: who else may look in is said after
        check_target(target, empty=empty)
        return os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unusable(target, error) from error


def unusable(target: Path, error: OSError) -> OpskitError:
    """What to tell about a target folder that cannot be made, opened or read."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return UsageError(f"the target {target} is not a folder", hint="choose an empty folder, or one to be made")
    if error.errno in FULL:
        return full(error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreRefused(
            f"the target {target} cannot be written: {error.strerror}", hint="choose a folder that you may write to"
        )
    return UsageError(f"the target {target} cannot be used: {error.strerror}", hint="choose another folder")


def full(error: OSError) -> StoreFull:
    """What to tell when space ran out."""
    return StoreFull(
        f"the target cannot be written: {error.strerror}",
        hint="free space there, then restore again with --overwrite if-changed: what is there already is kept",
    )
