"""How old each secret is and when it is due, from what the journal remembers: nothing lives in a process's memory.

The age of a value is counted from when it became the current one. A secret that was never rotated here has no known
age, and is due.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opskit.secrets.rotation.state import Rotation


@dataclass(frozen=True)
class Standing:
    """How things stand with one secret; times are epoch seconds, spans are seconds."""

    name: str
    rotation: Rotation | None
    """The last one, or the one under way."""
    age: float | None
    """Of the current value; None where no rotation of it is known."""
    due: float | None
    """When the next value is due; None where that was never known, and is now."""
    is_overdue: bool
    command: str = "rotate run"
    """What gives it a new value; a key of the backups has commands of its own."""

    is_at_work: bool = False
    """Whether a run is moving it just now."""

    @property
    def is_bad(self) -> bool:
        """Whether somebody must do something."""
        return self.is_overdue or self.has_stopped

    @property
    def has_stopped(self) -> bool:
        """Whether a rotation is under way that does not go on by itself."""
        is_waiting = self.is_at_work or (self.rotation is not None and self.rotation.waits_until is not None)
        return self.rotation is not None and not self.rotation.is_over and not is_waiting

    @property
    def next_action(self) -> str | None:
        """The command that goes on from here, as `rotate resume`; None where nothing is to be done."""
        if self.is_at_work:
            return None
        if self.rotation is not None and not self.rotation.is_over:
            return "rotate retire" if self.rotation.waits_until is not None else "rotate resume"
        return self.command if self.is_overdue else None


def standing(
    name: str, every: float, now: float, rotations: Mapping[str, Rotation], completed: Mapping[str, float]
) -> Standing:
    """The standing of one secret that is to change every so many seconds."""
    since = completed.get(name)
    due = None if since is None else since + every
    return Standing(name, rotations.get(name), None if since is None else now - since, due, due is None or now >= due)
