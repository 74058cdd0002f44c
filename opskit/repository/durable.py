"""Small files of the host's state that must survive a power cut, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from opskit.errors import OpskitError


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file (mode 0600): temporary name, fsync, rename, fsync of the folder. Raises OpskitError."""
    try:
        _write(path, data)
    except OSError as error:
        raise OpskitError(
            f"{path} cannot be written: {(error.strerror or 'error').lower()}",
            hint="free space in that folder, or mend its permissions, then run the command again",
        ) from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
