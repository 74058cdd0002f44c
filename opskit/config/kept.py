"""What a config file says, kept from the run that judged it good.

One small file for each config, private to its user, holds the plain values and a digest. The digest covers, beside the
values, everything that they follow from: the bytes of the config, its place, the program that judged it. So whatever
changed, and whatever was torn by a crash, is simply not found, and the config is judged anew. Nobody gains by writing
such a file: what others own or may write is not read, and its owner is the one whose config it is. Only the newest
files stay: configs come and go, and nothing tells here which are gone.

It deliberately never fails: without a private folder nothing is kept, and every run pays for judging.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from opskit import __version__
from opskit.config.model import Values

_MAX_BYTES = 4 * 1024 * 1024
_MAX_FILES = 16
_NAME = re.compile(r"config-[0-9a-f]{32}\.json")
_PROGRAM = (
    "build.py", "dangers.py", "entry.py", "judging.py", "kept.py", "load.py", "model.py", "remote.py", "rotating.py",
    "rotation_rules.py", "schema.py", "syntax.py", "terms.py",
    "../secrets/reference.py",
)  # fmt: skip
"""Whose text decides what a config means, relative to this folder: a checkout changes under one version number."""


def folder(environ: Mapping[str, str], home: Path) -> Path | None:
    """Where this user's kept files lie: $XDG_CACHE_HOME/opskit, ~/.cache/opskit; None without such a place."""
    base = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "opskit" if base.is_absolute() else None


class Kept:
    """The kept file of one config, as it reads now."""

    def __init__(self, place: Path, config: Path, content: bytes, schemes: Collection[str]) -> None:
        self._place = place
        self._name = f"config-{hashlib.sha256(os.fsencode(config)).hexdigest()[:32]}.json"
        self._facts = [__version__.encode(), os.fsencode(config), " ".join(schemes).encode(), content]

    def read(self) -> Values | None:
        """The values, or None where there are none that may be believed."""
        with contextlib.suppress(OSError), _opened(self._place) as parent:
            descriptor = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
            with open(descriptor, "rb") as file:
                if not _is_private(os.fstat(descriptor), stat.S_IFREG, 0o077):
                    return None
                digest, _, text = file.read(_MAX_BYTES).partition(b"\n")
            if digest == self._digest(text):
                values: Values = json.loads(text)
                return values
        return None

    def write(self, values: Values) -> None:
        """Keep the values, in place of older ones, and remove the oldest files where there are too many."""
        text = json.dumps(values).encode()
        with contextlib.suppress(OSError):
            _make(self._place)
            with _opened(self._place) as parent:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._name, dir_fd=parent)
                # In place: the digest, not a rename, guards against a half of it.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                with open(os.open(self._name, flags, 0o600, dir_fd=parent), "wb") as file:
                    file.write(self._digest(text) + b"\n" + text)
                _prune(parent, self._name)

    def _digest(self, text: bytes) -> bytes:
        here = Path(__file__).parent
        digest = hashlib.sha256()
        for fact in (*self._facts, *((here / name).read_bytes() for name in _PROGRAM), text):
            digest.update(len(fact).to_bytes(8, "big") + fact)
        return digest.hexdigest().encode()


def _prune(parent: int, newest: str) -> None:
    """Remove this user's oldest kept files; `newest` stays, whatever the clock of the file system says."""
    ages = {}
    for name in os.listdir(parent):
        with contextlib.suppress(OSError):  # another process prunes too
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if _NAME.fullmatch(name) and _is_private(status, stat.S_IFREG, 0):
                ages[name] = (name == newest, status.st_mtime_ns)
    for name in sorted(ages, key=ages.__getitem__)[:-_MAX_FILES]:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=parent)


@contextmanager
def _opened(place: Path) -> Iterator[int]:
    """The folder, held open, so that what was judged is what is used. Raises OSError where it is not private."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if not _is_private(os.fstat(descriptor), stat.S_IFDIR, 0o022):
            raise PermissionError(place)
        yield descriptor
    finally:
        os.close(descriptor)


def _make(place: Path) -> None:
    """Make the folder, and the one around it, where that is this user's own business: not in the home of another."""
    around = place.parent if place.parent.exists() else place.parent.parent
    if not _is_private(os.stat(around), stat.S_IFDIR, 0):
        raise PermissionError(around)
    for each in (place.parent, place):
        with contextlib.suppress(FileExistsError):
            os.mkdir(each, 0o700)


def _is_private(status: os.stat_result, kind: int, forbidden: int) -> bool:
    return stat.S_IFMT(status.st_mode) == kind and status.st_uid == os.geteuid() and not status.st_mode & forbidden
