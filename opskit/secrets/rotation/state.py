"""Where a rotation stands: its states, in the order in which they are reached, and the record that is kept of it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from opskit.secrets.reference import Secret


class State(StrEnum):
    """What is done; each follows the one before, but ROLLED_BACK and NEEDS_OPERATOR, which may follow any."""

    PLANNED = "PLANNED"
    """Checked: the current value is accepted, nothing is pending."""
    STAGED = "STAGED"
    """The new value is pending in the store, and was read back."""
    APPLIED = "APPLIED"
    """The target was made to accept the new value."""
    TESTED = "TESTED"
    """A new connection with the new value succeeded."""
    PROMOTED = "PROMOTED"
    """The new value is the current one in the store; the one before is the previous one."""
    MIGRATING = "MIGRATING"
    """Consumers and items are being moved."""
    GRACE = "GRACE"
    """All have moved; the old value is still accepted, for whoever was forgotten, where the target has two slots."""
    OLD_DISABLED = "OLD_DISABLED"
    """The old value is refused, and could be accepted again. With one slot: all were seen to work without it."""
    OLD_DELETED = "OLD_DELETED"
    """The old value is gone from target and store. The end."""
    ROLLED_BACK = "ROLLED_BACK"
    """Everything is as it was before. The end."""
    NEEDS_OPERATOR = "NEEDS_OPERATOR"
    """Every way that opskit has was tried; nothing was deleted."""


ORDER = (
    State.PLANNED, State.STAGED, State.APPLIED, State.TESTED, State.PROMOTED,
    State.MIGRATING, State.GRACE, State.OLD_DISABLED, State.OLD_DELETED,
)  # fmt: skip
ENDS = frozenset((State.OLD_DELETED, State.ROLLED_BACK))


@dataclass(frozen=True)
class Rotation:
    """One rotation of one secret, as the journal keeps it. Times are epoch seconds; prints are keyed fingerprints."""

    id: str
    name: str
    secret: str
    """The reference."""
    started: float
    state: State = State.PLANNED
    """The last one that was reached; never NEEDS_OPERATOR, which `shown` says."""
    is_back: bool = False
    """It is being undone."""
    is_stuck: bool = False
    """It needs an operator."""
    old_print: str | None = None
    new_print: str | None = None
    """Of the new value, from when it was made: before it is kept."""
    refused_print: str | None = None
    """Of the last new value that the target refused; the store may still have it."""
    problem: str | None = None
    """Why it did not go on, the last time it was tried."""
    waits_until: float | None = None
    """When it may go on, where nothing but time is missing."""
    cause: str | None = None
    """Why it is being undone, or was; None where somebody asked for it."""
    reached: Mapping[str, float] = field(default_factory=dict)
    """When each state was reached the last time."""
    refusals: int = 0
    """New values that the target refused."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ENDS

    @property
    def shown(self) -> State:
        """The state as people are told it."""
        return State.NEEDS_OPERATOR if self.is_stuck else self.state

    def has(self, state: State) -> bool:
        """Whether a state was reached, on the way forward."""
        return self.state in ORDER and ORDER.index(self.state) >= ORDER.index(state)

    def since(self, state: State) -> float:
        """When a state was reached; the start where it was not."""
        return self.reached.get(state, self.started)


class Fingerprints:
    """Tells values apart without keeping them: HMAC-SHA-256 under a key of this host, 64 bits of it.

    Who has the journal but not the key cannot try guesses against them.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, secret: Secret) -> str:
        """The fingerprint of a value, 16 hexadecimal digits."""
        return hmac.new(self._key, secret.reveal_bytes(), hashlib.sha256).hexdigest()[:16]
