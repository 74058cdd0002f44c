"""A rotation target of commands: whatever has a program for it.

The value that a command is about is on its stdin; `{new}` and `{old}` in its arguments name files in memory that
hold the values. A secret is never an argument. `check` is what everything else is judged by: exit 0 says that the value
on its stdin is accepted, exit 1 that it is refused, anything else that nobody can say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opskit.errors import TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import password
from opskit.secrets.rotation.commands import About, Answer, Programs

REFUSED = 1
"""The exit status by which a check says no, and another command that it has changed nothing."""


@dataclass(frozen=True)
class Commands:
    """The commands of the config."""

    apply: tuple[str, ...]
    """Makes the target accept the value on stdin; `{old}` is accepted now. Exit 1: refused, nothing changed."""
    check: tuple[str, ...]
    """Judges the value on stdin."""
    create: tuple[str, ...] | None = None
    """Writes a new value to stdout; default: a random password of letters and digits."""
    disable: tuple[str, ...] | None = None
    """Stops the value on stdin from being accepted, so that `apply` can take it back."""
    delete: tuple[str, ...] | None = None
    """Stops the value on stdin from being accepted, for ever."""
    keeps_old: bool = False
    """Whether the value before is accepted beside a new one, until disable or delete."""
    timeout: float = 60.0


class CommandTarget:
    """Calls the commands."""

    def __init__(self, commands: Commands, programs: Programs, make: Callable[[], Secret] = password) -> None:
        self.keeps_old = commands.keeps_old
        self._commands, self._programs, self._make = commands, programs, make

    def create(self, current: Secret | None, since: float) -> Secret:
        del since
        if self._commands.create is None:
            return self._make()
        answer = self._run(self._commands.create, current, None, current, is_private=True)
        value = answer.output.removesuffix(b"\n")
        if not answer.is_good or not value:
            raise TargetError(f"expected a new value from {answer.program}, got none: {answer}")
        if current is not None and value == current.reveal_bytes():
            raise TargetError(f"expected a new value from {answer.program}, got the current one")
        return Secret(value)

    def apply(self, secret: Secret, current: Secret | None) -> None:
        self._require(self._run(self._commands.apply, secret, secret, current))

    def verify(self, secret: Secret) -> bool:
        answer = self._run(self._commands.check, secret, secret, None)
        if answer.status not in (0, REFUSED):
            raise TargetError(f"nobody knows whether the value is accepted: expected exit 0 or 1: {answer}")
        return answer.is_good

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        argv = self._commands.delete if final else self._commands.disable
        if argv is None and final:
            argv = self._commands.disable
        if argv is not None:
            self._require(self._run(argv, secret, kept, secret))

    def _run(
        self,
        argv: tuple[str, ...],
        stdin: Secret | None,
        new: Secret | None,
        old: Secret | None,
        is_private: bool = False,
    ) -> Answer:
        named = (("new", new), ("old", old))
        about = About(secrets=tuple((name, each) for name, each in named if each is not None))
        timeout = self._commands.timeout
        return self._programs.run(argv, about, stdin=stdin, timeout=timeout, has_private_output=is_private)

    def _require(self, answer: Answer) -> None:
        if answer.status == REFUSED:
            raise TargetRefused(str(answer))
        if not answer.is_good:
            raise TargetError(str(answer))
