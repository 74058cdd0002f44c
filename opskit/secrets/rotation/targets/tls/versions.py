"""The files of a TLS server, in a folder for each certificate; the link `current` leads to the one in use.

    FOLDER/current → versions/NAME        FOLDER/versions/NAME/{privkey.pem, fullchain.pem}

Invariants: both files change at one moment, with the link; each is on the medium before that, with mode 0600 in folders
of mode 0700. A crash leaves the former link or the new one; half a version is never linked, and made anew.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

KEY, CHAIN = "privkey.pem", "fullchain.pem"
LINK = "current"


def switch(folder: Path, name: str, key: bytes, chain: bytes) -> None:
    """Write a version, unless it is there, and have the link lead to it. Raises OSError."""
    versions = folder / "versions"
    versions.mkdir(mode=0o700, exist_ok=True)
    _write(versions, name, {KEY: key, CHAIN: chain})
    temporary = folder / f".{LINK}.new"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("versions") / name)
    os.replace(temporary, folder / LINK)
    _sync(folder)


def is_current(folder: Path, name: str) -> bool:
    """Whether the link leads to that version. Raises OSError."""
    link = folder / LINK
    return link.is_symlink() and link.readlink() == Path("versions") / name


def remove(folder: Path, name: str) -> None:
    """Remove a version, which may be gone already. Raises OSError."""
    versions = folder / "versions"
    for path in (versions / name, versions / f".{name}.new"):
        if path.exists():
            shutil.rmtree(path)
            _sync(versions)


def _write(versions: Path, name: str, files: dict[str, bytes]) -> None:
    if all(_content(versions / name / each) == data for each, data in files.items()):
        return
    remove(versions.parent, name)
    temporary = versions / f".{name}.new"
    temporary.mkdir(mode=0o700)
    for each, data in files.items():
        file = os.open(temporary / each, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "wb") as writer:
            writer.write(data)
            writer.flush()
            os.fsync(file)
    _sync(temporary)
    os.rename(temporary, versions / name)
    _sync(versions)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
