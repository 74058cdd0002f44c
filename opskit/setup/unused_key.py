"""The note of a recovery-key file that was written for a recipient whom the config does not name yet.

The file comes before the config, or a kill in between would leave a config that encrypts to a key nobody has. So a kill
in between leaves a file that opens nothing, and looks like one that opens everything. The note is there before the file
and goes after the config was written: as long as it is there, the next run can say which of both it is.

Invariants: it holds no secret, and nothing relies on it: where it cannot be read there is none. Nobody is told to
remove what is not, byte for byte, what was to be written: sticks are swapped, and a good key may lie there by now.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from opskit import encoding
from opskit.access import MAX_KEY_FILE
from opskit.config.model import Keys
from opskit.errors import Damaged, UsageError
from opskit.repository.durable import write_durably
from opskit.repository.names import sha256
from opskit.repository.recovery import keyfile
from opskit.repository.recovery.keyfile import KeyFile

_NOTE = "new-recovery-key.json"
_TITLE = keyfile.TITLE.encode()


class Found(Enum):
    """What is at the path of the note now."""

    WHOLE = auto()
    """The very bytes that were to be written."""
    TORN = auto()
    """The beginning of a recovery-key file: the run seems to have ended amid writing it."""
    OTHER = auto()
    """Nothing that can be seen, or something else."""


@dataclass(frozen=True, slots=True)
class Left:
    """A recovery-key file that an earlier run made, or was about to make, for a key which the config does not name."""

    file: Path
    fingerprint: str
    found: Found


def note(state: Path, fingerprint: str, path: Path, known: KeyFile) -> None:
    """Say, durably, which file is about to get whose private key; raises OpskitError."""
    noted = {"fingerprint": fingerprint, "file": str(path.absolute()), "sha256": sha256(keyfile.encode(known))}
    write_durably(state / _NOTE, encoding.encode(noted))


def forget(state: Path) -> None:
    """The file is of use now, or gone, or it was told of. Losing the note is no failure."""
    with suppress(OSError):
        (state / _NOTE).unlink(missing_ok=True)


def left(state: Path, keys: Keys, wanted: Path | None = None) -> Left | None:
    """What an earlier run left, or may have left, of a key which the config does not name; None where that is nothing.

    A file at the place `wanted` is not told of: it is about to be made there.
    """
    with suppress(OSError, Damaged, KeyError):
        noted = encoding.decode_object((state / _NOTE).read_bytes(), what=_NOTE)
        file, digest, fingerprint = Path(str(noted["file"])), noted["sha256"], str(noted["fingerprint"])
        if fingerprint not in (*keys.recipients, *keys.retired) and file != (wanted and wanted.absolute()):
            return Left(file, fingerprint, _found(file, digest))
    return None


def require_other_file(state: Path, keys: Keys, wanted: Path) -> None:
    """Raise UsageError where a new key is to go where an earlier run left one that opens nothing."""
    found = left(state, keys)
    if found is None or found.file != wanted.absolute():
        return
    if found.found is Found.WHOLE:
        raise UsageError(
            f"{wanted} is of an earlier run that ended before it changed anything: its key opens no backup",
            hint="remove that file, and give the command again",
        )
    if found.found is Found.TORN:
        raise UsageError(
            f"{wanted} is not whole: an earlier run seems to have ended while it wrote that recovery-key file",
            hint="name another file, or move it away",
        )


def _found(file: Path, digest: object) -> Found:
    data = _read(file)
    if data is None:
        return Found.OTHER
    if sha256(data) == digest:
        return Found.WHOLE
    begun = data.rstrip(b"\0")[: len(_TITLE)]  # a power cut leaves zeros, or nothing, of what was not synced
    return Found.TORN if _TITLE.startswith(begun) and not _is_key_file(data) else Found.OTHER


def _read(file: Path) -> bytes | None:
    """What a regular file holds, as far as a recovery-key file can reach; None where none can be read."""
    with suppress(OSError, ValueError):
        # No link is followed, as none is when a key is written; and a pipe must not hang the command.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return opened.read(MAX_KEY_FILE + 1)
    return None


def _is_key_file(data: bytes) -> bool:
    try:
        keyfile.decode(data)
    except Damaged:
        return False
    return True
