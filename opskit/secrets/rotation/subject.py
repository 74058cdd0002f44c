"""What a rotation is about: a secret of the config, what accepts it, who uses it, and how long is waited for what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from opskit.secrets.base import SecretStore
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.base import RotationTarget
from opskit.secrets.rotation.state import Rotation


class Consumer(Protocol):
    """What uses the secret and must be told of a new value: a file, another store, a service behind them."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def deliver(self, secret: Secret) -> None:
        """Write the value where it is read, and have it read; may be repeated. Raises OpskitError."""
        ...

    def lacking(self, secret: Secret) -> Sequence[str]:
        """The places that it reads which hold another value; none where it has this one. Raises OpskitError."""
        ...

    def fault(self) -> str | None:
        """Why it does not work with what it holds, or None."""
        ...


class Items(Protocol):
    """What is held under a secret and moves from the old value to the new one, each by a command."""

    def move(self, rotation: Rotation, old: Secret | None, new: Secret) -> str | None:
        """Move all there are; why not all have moved, or None. What has moved already is not moved again."""
        ...

    def left(self, rotation: Rotation, old: Secret | None, new: Secret) -> int:
        """How many are still under the old value."""
        ...

    def has_moved(self, rotation: Rotation) -> bool:
        """Whether any may be under the new value already, so that it must not be given up."""
        ...


@dataclass(frozen=True)
class Policy:
    """How long a rotation waits, in seconds."""

    grace: float = 0.0
    """Between the end of the moves and switching the old value off, at least."""
    observe: float = 0.0
    """Between switching the old value off and deleting it, at least."""
    propagation: float = 30.0
    """How long a target may take until it accepts what it was told to."""
    successes: int = 1
    """Logins in a row that prove a new value: clouds answer from many places."""


@dataclass(frozen=True)
class Tools:
    """What the machine is given of the world: time, new ids, and what is told of each step while it is made."""

    now: Callable[[], float]
    sleep: Callable[[float], None]
    new_id: Callable[[], str]
    around: Callable[[Rotation, str], AbstractContextManager[object]] = lambda _rotation, _step: nullcontext()


@dataclass(frozen=True)
class Subject:
    """A secret of the config: where it lies, what accepts it, who uses it."""

    name: str
    reference: Reference
    store: SecretStore
    target: RotationTarget
    consumers: Sequence[Consumer] = ()
    items: Items | None = None
    policy: Policy = Policy()
    may_delete: Callable[[Secret], str | None] = lambda _old: None
    """Why the old value must not be deleted yet (a backup that needs it), or None."""
