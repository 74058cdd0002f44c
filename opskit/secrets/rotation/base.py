"""The seam of rotation targets: what must accept a secret before anybody is given it.

A value is what the secret store keeps, whole. Where it has parts (a user and a password, the two halves of a key), it
is a JSON object of strings, made and read here, so that consumers can be given the parts in a shape of their own.

Invariant of all targets: a method may be repeated any number of times, after a crash at any point of it as well, and
ends as if it had run once. No exception holds a value.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from opskit.errors import TargetRefused
from opskit.secrets.reference import Secret

LETTERS = string.ascii_letters + string.digits
"""What passwords are made of: nothing that a URL, a shell, an SQL text or a config file would have to quote."""
LENGTH = 40
"""Characters of a password: 238 bits."""
TIMEOUT = 10.0
"""Seconds that a target waits for an answer; no probe may hold a rotation for ever."""


class RotationTarget(Protocol):
    """Something that accepts a secret: a database server, a cloud account, a file of authorized keys.

    All methods raise TargetRefused where the target said no and is as it was before, and TargetError where nobody can
    say what became of the call: it timed out, or the connection was lost. Then the rotation probes; it assumes nothing.
    """

    keeps_old: bool
    """Whether the value before is accepted beside a new one until it is revoked (two slots), or replaced (one)."""

    def create(self, current: Secret | None, since: float) -> Secret:
        """A new value that nobody has yet; `current` is the one in use, None where there is none.

        Nothing that is accepted now is touched. Where the target itself makes the value, whatever an interrupted call
        left behind after `since` (epoch seconds, when this rotation began) is removed first.
        """
        ...

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Make the target accept `secret`. `current` is accepted now, and may be used to log in.

        With two slots `current` stays accepted. Takes back a `revoke` that was not final.
        """
        ...

    def verify(self, secret: Secret) -> bool:
        """Whether the target accepts it: by a new connection, the way in which its users connect. One attempt."""
        ...

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Stop accepting `secret`; `kept` goes on being accepted, and may be used to log in.

        Unless it is `final`, `apply` can take it back. With one slot there is nothing to do.
        """
        ...


@runtime_checkable
class Witness(Protocol):
    """A target that can tell whether a value is still used."""

    def in_use(self, secret: Secret, kept: Secret, since: float) -> str | None:
        """What shows that it was used after `since` (epoch seconds), in words; None where nothing does.

        `kept` is accepted, and may be used to log in; `secret` may be refused already. Raises TargetError where that
        cannot be found out.
        """
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A target that can tell in advance what would keep a rotation from its end."""

    def foresee(self, current: Secret | None, previous: Secret | None) -> None:
        """Raise TargetRefused where a rotation would be refused on its way, TargetError; nothing is changed.

        `current` and `previous` are what the store has in these stages; None: nothing. A rotation puts the current
        value in the place of the previous one, which goes.
        """
        ...


@runtime_checkable
class Keeper(Protocol):
    """A target for which a value may be needed though nobody uses it: what only it opens may lie anywhere."""

    def need_of(self, secret: Secret, kept: Secret) -> str | None:
        """Why `secret` must go on being kept and accepted beside `kept`, in words; None where it may go.

        Raises TargetError where that cannot be found out.
        """
        ...


def password() -> Secret:
    """A new random one."""
    return Secret("".join(secrets.choice(LETTERS) for _ in range(LENGTH)))


def document(parts: Mapping[str, str]) -> Secret:
    """A value of several parts."""
    return Secret(json.dumps(dict(parts), ensure_ascii=False, separators=(",", ":")))


def parts_of(secret: Secret, *names: str) -> tuple[str, ...]:
    """Those parts of a value, in that order; raises TargetRefused where it is no JSON object that has them all."""
    try:
        found = json.loads(secret.reveal_bytes())
    except ValueError:  # UnicodeDecodeError among them
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        # `from None` and no excerpt: the cause would carry the value.
        raise TargetRefused(
            f"the value in the store has another shape: expected a JSON object with {', '.join(names)}",
            hint="set it once by hand, as it is in use now: opskit secrets set REFERENCE",
        ) from None
    return tuple(found[name] for name in names)
