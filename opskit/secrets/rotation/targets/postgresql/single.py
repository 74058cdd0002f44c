"""One PostgreSQL user whose password is replaced: from then on the one before is refused.

The value is the password. The user changes it itself, logged in with the current one, or an administrator does; only
the latter works where the current one is refused, or where a provider lets users not change theirs. Sessions that are
open stay open.
"""

from __future__ import annotations

from dataclasses import dataclass

from opskit.errors import TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import password
from opskit.secrets.rotation.targets.postgresql.probing import Access, accepts
from opskit.secrets.rotation.targets.postgresql.server import Login, LoginRefused, session

_HINT = "give the target an administrator, who can set a password without knowing the one before"


@dataclass(frozen=True, kw_only=True)
class SingleUser(Access):
    """Settings."""

    user: str


class PostgresqlUser:
    """The rotation target."""

    keeps_old = False

    def __init__(self, settings: SingleUser) -> None:
        self._settings = settings

    def create(self, current: Secret | None, since: float) -> Secret:
        """A password; nothing is asked of the server."""
        del current, since
        return password()

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """By the administrator where there is one, else by the user itself."""
        user, admin = self._settings.user, self._settings.admin
        if admin is None and current is None:
            raise TargetRefused(f"{self._settings.server}: nobody is there to alter {user}", hint=_HINT)
        try:
            with session(self._settings.server, Login(user, current) if admin is None else admin.login()) as entered:
                entered.alter(user, "", secret)
        except LoginRefused as refusal:
            # Without an administrator a repeated call finds the new password in place, and nothing left to do.
            if admin is not None or not self.verify(secret):
                raise TargetRefused(str(refusal), hint=None if admin else _HINT) from None

    def verify(self, secret: Secret) -> bool:
        """Whether the user can log in with it."""
        return accepts(self._settings, Login(self._settings.user, secret))

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Nothing: it was replaced."""
