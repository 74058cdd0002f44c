"""What the file system says about the places that `opskit init` was given, before they are used.

It looks and writes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from opskit.errors import UsageError


def require_new_file(recovery_key: Path) -> None:
    """Raise UsageError unless a recovery-key file can come to this path: nothing is there yet, but its folder is.

    A missing folder is never made: it may be that of a stick that is not mounted, and a private key would come to lie
    on the disk of the host that it must not be on.
    """
    if os.path.lexists(recovery_key):
        raise UsageError(
            f"the recovery-key file {recovery_key} exists; it is never overwritten",
            hint="name another file, or move it away",
        )
    folder = recovery_key.parent
    if not folder.is_dir():
        what = "is not a folder" if os.path.lexists(folder) else "is not there"
        raise UsageError(
            f"the recovery-key file {recovery_key}: {folder} {what}",
            hint="mount the stick that it goes to, or make the folder yourself: init does not, as a private key would "
            "come to lie on this host's disk",
        )
