"""The recovery kit that lies in every copy: how to get the data back when opskit is gone.

`recover.py` and `RECOVER.md` are shipped as they are, byte for byte; nothing is filled in, so that their SHA-256 can
stand in the recovery-key file and on paper. The form of that file is in `keyfile`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_FILES = ("RECOVER.md", "recover.py")


def kit() -> dict[str, bytes]:
    """The bytes of the recovery kit by object name."""
    folder = Path(__file__).parent
    return {name: (folder / name).read_bytes() for name in _FILES}


def digests() -> dict[str, str]:
    """SHA-256 of the kit's objects, for manifests."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in kit().items()}
