"""Who stands behind this process.

The login is the one the kernel keeps from when the session began (`/proc/self/loginuid`, which only root can change),
where there is one; else SUDO_USER, which whoever may set the environment can make up. User ids are facts, the login is
a lead.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from opskit.audit.record import Actor

_UNSET = 2**32 - 1


def current_actor(via: str, environ: Mapping[str, str], loginuid: Path = Path("/proc/self/loginuid")) -> Actor:
    """The actor of this process; `via` names the channel."""
    uid = os.getuid()
    kept = _kept(loginuid)
    login = _name(kept) if kept is not None else environ.get("SUDO_USER") or _name(uid)
    return Actor(uid, os.geteuid(), login, via)


def _kept(loginuid: Path) -> int | None:
    try:
        kept = int(loginuid.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if kept == _UNSET else kept


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
