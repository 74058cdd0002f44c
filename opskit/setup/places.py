"""What the file system says about the places that `opskit init` was given, before they are used.

It looks and writes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from opskit.errors import UsageError


def require_new_file(recovery_key: Path) -> None:
    """Raise UsageError where there is something at the path of a recovery-key file."""
    if os.path.lexists(recovery_key):
        raise UsageError(
            f"the recovery-key file {recovery_key} exists; it is never overwritten",
            hint="name another file, or move it away",
        )
