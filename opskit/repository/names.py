"""The names of objects in a repository, and the only place that knows their grammar.

Every name but the four fixed ones contains the SHA-256 of the object's own bytes, so anyone can check
any object without a key. Labels are [a-z0-9_-], times are 20261121T020000Z: vfat sticks must do.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

REPOSITORY = "opskit.json"
COPY = "copy.json"
RECOVER_TEXT = "RECOVER.md"
RECOVER_PROGRAM = "recover.py"
FIXED = frozenset({REPOSITORY, COPY, RECOVER_TEXT, RECOVER_PROGRAM})

LABEL = re.compile(r"[a-z0-9_-]{1,32}")
_TIME = "%Y%m%dT%H%M%SZ"
_HASH = "[0-9a-f]{64}"
_HASHED = re.compile(
    rf"keys/({_HASH})\.asc|packs/[0-9a-f]{{2}}/({_HASH})|index/({_HASH})\.gpg|packlists/({_HASH})"
    rf"|(?:snapshots|marks|evidence)/[0-9]{{8}}T[0-9]{{6}}Z-[a-z0-9_-]{{1,32}}-({_HASH})\.gpg"
)

_QUARANTINED = re.compile(rf"quarantine/{_HASH}")
_MARK = re.compile(rf"marks/[0-9]{{8}}T[0-9]{{6}}Z-([a-z0-9_-]{{1,32}})-{_HASH}\.gpg")


def sha256(data: bytes | bytearray | memoryview) -> str:
    """Lower-case hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def key(digest: str) -> str:
    """A key object: the run keys of one or many runs, encrypted to every recipient."""
    return f"keys/{digest}.asc"


def pack(digest: str) -> str:
    """A pack of chunks, spread over 256 folders by its first two digits."""
    return f"packs/{digest[:2]}/{digest}"


def is_pack(name: str) -> bool:
    """Whether an object is a pack, by its name."""
    return name.startswith("packs/")


def index(digest: str) -> str:
    """An index object: which chunks lie in which packs."""
    return f"index/{digest}.gpg"


def packlist(digest: str) -> str:
    """A list of pack names shared by manifests."""
    return f"packlists/{digest}"


def kind_of_mark(name: str) -> str:
    """The kind that the name of a mark tells; "" for any other name."""
    found = _MARK.fullmatch(name)
    return found[1] if found else ""


def snapshot(time: datetime, source: str, digest: str) -> str:
    """A manifest."""
    return f"snapshots/{utc(time)}-{source}-{digest}.gpg"


def mark(time: datetime, kind: str, digest: str) -> str:
    """What a maintainer says of snapshots."""
    return f"marks/{utc(time)}-{kind}-{digest}.gpg"


def evidence(time: datetime, kind: str, digest: str) -> str:
    """What a host found out about copies."""
    return f"evidence/{utc(time)}-{kind}-{digest}.gpg"


def digest_in(name: str) -> str | None:
    """The SHA-256 an object's name promises; None for fixed names and strangers."""
    match = _HASHED.fullmatch(name)
    digest = next((group for group in match.groups() if group), None) if match else None
    return None if digest and name.startswith("packs/") and name != pack(digest) else digest


def quarantine(digest: str) -> str:
    """Where the wrong bytes of a replaced object are kept; `digest` is of those bytes."""
    return f"quarantine/{digest}"


def is_quarantined(name: str) -> bool:
    """Whether wrong bytes are kept under this name; what people put beside them is not meant."""
    return _QUARANTINED.fullmatch(name) is not None


def utc(time: datetime) -> str:
    """A time as object names carry it."""
    return time.astimezone(UTC).strftime(_TIME)
