"""The note of a recovery-key file that was written for a recipient whom the config does not name yet.

The file comes before the config, or a kill in between would leave a config that encrypts to a key nobody has. So a kill
in between leaves a file that opens nothing, and looks like one that opens everything. The note is there before the file
and goes after the config was written: as long as it is there, the next run can say which of both it is.

Invariant: it holds no secret, and nothing relies on it: where it cannot be read there is none.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from opskit import encoding
from opskit.config.model import Keys
from opskit.errors import Damaged, UsageError
from opskit.repository.durable import write_durably

_NOTE = "new-recovery-key.json"


def note(state: Path, fingerprint: str, file: Path) -> None:
    """Say, durably, which file is about to get whose private key; raises OpskitError."""
    noted = {"fingerprint": fingerprint, "file": str(file.absolute())}
    write_durably(state / _NOTE, encoding.encode(noted))


def forget(state: Path) -> None:
    """The file is of use now, or gone, or it was told of. Losing the note is no failure."""
    with suppress(OSError):
        (state / _NOTE).unlink(missing_ok=True)


def left(state: Path, keys: Keys, wanted: Path | None = None) -> Path | None:
    """The file that an earlier run left with a key which the config does not name; None where there is none.

    One at the place `wanted` is not told of: it is about to be made there.
    """
    with suppress(OSError, Damaged, KeyError):
        noted = encoding.decode_object((state / _NOTE).read_bytes(), what=_NOTE)
        file = Path(str(noted["file"]))
        if noted["fingerprint"] not in (*keys.recipients, *keys.retired) and file != (wanted and wanted.absolute()):
            return file
    return None


def require_other_file(state: Path, keys: Keys, wanted: Path) -> None:
    """Raise UsageError where a new key is to go where an earlier run left one that opens nothing."""
    if os.path.lexists(wanted) and left(state, keys) == wanted.absolute():
        raise UsageError(
            f"{wanted} is of an earlier run that ended before it changed anything: its key opens no backup",
            hint="remove that file, and give the command again",
        )
