"""What became of one source in a backup: for the person who reads it, for JSON, and for the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from opskit.errors import OpskitError


@dataclass(slots=True)
class Result:
    """What became of one source. `destinations`: "ok", "behind" or "failed"; sizes in bytes.

    `put_bytes` tells per destination what was put there since the result before, catching up included; `locked` until
    when nobody can take the snapshot away there.
    """

    source: str
    snapshot: str = ""
    files: int = 0
    bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0
    unchanged: int = 0
    errors: list[str] = field(default_factory=list)
    destinations: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, OpskitError] = field(default_factory=dict)
    put_bytes: dict[str, int] = field(default_factory=dict)
    locked: dict[str, datetime] = field(default_factory=dict)
    failure: OpskitError | None = None
    alarms: Sequence[str] = ()
    """What was odd beside the snapshots before."""
    held: int = 0
    """At how many destinations the new snapshot is, whole."""

    @property
    def is_good(self) -> bool:
        """All files read, all copies current."""
        return not self.errors and all(state == "ok" for state in self.destinations.values())
