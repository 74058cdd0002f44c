"""Since when each file that could not be read could not be: what lets retention tell an old trouble from a new one.

How many files a snapshot lacks says little: one that was never readable may be back, and a whole folder be gone
instead. So the host remembers, beside its last tree, when each path was found unreadable without a readable run in
between, and the manifest says since when at the latest all of them are.

Invariants: what is not remembered began now, so lost state makes nothing look older than it is. No name leaves the
host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from opskit.repository.manifest import time_of, time_text
from opskit.repository.names import sha256

MOST_REMEMBERED = 10_000
"""Paths; where more cannot be read, all of them began now."""

_KEY = "unreadable"


def remember(about: Mapping[str, object], paths: Iterable[bytes], started: datetime) -> dict[str, str]:
    """Since when each of these paths is unreadable, by its SHA-256; `about` is what was noted beside the last tree."""
    known, now = about.get(_KEY), time_text(started)
    before = {name: text for name, text in known.items() if _is_before(text, now)} if isinstance(known, dict) else {}
    found = {digest: before.get(digest, now) for digest in map(sha256, paths)}
    return found if len(found) <= MOST_REMEMBERED else {"": now}


def _is_before(text: object, now: str) -> bool:
    """Whether it is a time, and not one of a clock that was ahead."""
    try:
        return isinstance(text, str) and time_of(text) <= time_of(now)
    except ValueError:
        return False


def noted(found: Mapping[str, str]) -> dict[str, object]:
    """What to note beside the last tree."""
    return {_KEY: dict(found)} if found else {}


def since(found: Mapping[str, str]) -> datetime | None:
    """Since when at the latest all of them are unreadable; None where there are none."""
    return max(map(time_of, found.values()), default=None)
