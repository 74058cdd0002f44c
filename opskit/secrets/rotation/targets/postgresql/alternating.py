"""Two PostgreSQL users of equal rights that take turns: the old one stays good until it is disabled.

The value is `{"username": …, "password": …}`, promoted as one. Both users are made beforehand, and what they make
belongs to a third role, or what one made the other could not use:

    CREATE ROLE shop NOLOGIN;
    CREATE ROLE shop_a IN ROLE shop; ALTER ROLE shop_a SET role = shop;
    CREATE ROLE shop_b IN ROLE shop; ALTER ROLE shop_b SET role = shop;

Invariants: no other role is ever altered, whatever a store holds; the user of the value that is kept is not touched; no
role is dropped. Use is seen in open sessions only: who logs in and out between two looks is not.
"""

from __future__ import annotations

from dataclasses import dataclass

from opskit.errors import ConfigError, TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import document, parts_of, password
from opskit.secrets.rotation.targets.postgresql.probing import Access, accepts
from opskit.secrets.rotation.targets.postgresql.server import APPLICATION, Login, session

_HINT = "expected an administrator in the settings"
_PARTS = ("username", "password")
_SESSIONS = "FROM pg_catalog.pg_stat_activity WHERE usename = %s AND application_name <> %s"


@dataclass(frozen=True, kw_only=True)
class AlternatingUsers(Access):
    """Settings; raises ConfigError where they are not three different roles."""

    users: tuple[str, str]
    owner: str | None = None
    """The role that both become at login, if they do."""
    terminate: bool = False
    """Whether a final revocation ends the sessions of the old user; needs pg_signal_backend."""

    def __post_init__(self) -> None:
        named = [*self.users, *(() if self.admin is None else (self.admin.user,))]
        if len(set(named)) < len(named):
            raise ConfigError(f"expected two users and an administrator beside, got {', '.join(named)}")


class PostgresqlAlternating:
    """The rotation target, and the witness of old users."""

    keeps_old = True

    def __init__(self, settings: AlternatingUsers) -> None:
        self._settings = settings

    def create(self, current: Secret | None, since: float) -> Secret:
        """The user whose turn it is, with a new password; nothing is asked of the server."""
        del since
        first, second = self._settings.users
        is_first = current is None or self._login(current).user == second
        parts = (first if is_first else second, password().reveal())
        return document(dict(zip(_PARTS, parts, strict=True)))

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Let its user log in, with its password. TargetRefused where that would replace the current one's."""
        login = self._login(secret)
        if current is not None and self._login(current).user == login.user and not _are_same(secret, current):
            raise TargetRefused(f"{self._settings.server}: {login.user} is in use: expected a value of the other user")
        with session(self._settings.server, self._actor(current)) as entered:
            entered.alter(login.user, "LOGIN", login.password)

    def verify(self, secret: Secret) -> bool:
        """Whether its user can log in with its password."""
        return accepts(self._settings, self._login(secret), self._settings.owner)

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Let its user not log in any more; finally, forget its password and end its sessions, if that is set."""
        user = self._login(secret).user
        if user == self._login(kept).user:
            raise TargetRefused(f"{self._settings.server}: {user} is kept: expected to disable the other user")
        with session(self._settings.server, self._actor(kept)) as entered:
            entered.alter(user, "NOLOGIN PASSWORD NULL" if final else "NOLOGIN")
        if final and self._settings.terminate:
            self._end_sessions(user, kept)

    def in_use(self, secret: Secret, kept: Secret, since: float) -> str | None:
        """The sessions that its user has open now, whenever they began."""
        del since
        login = self._login(secret)
        with session(self._settings.server, self._actor(kept)) as entered:
            rows = entered.ask("see sessions", f"SELECT count(*) {_SESSIONS}", login.user, APPLICATION)
        count = rows[0][0]
        return f"{count} open {'session' if count == 1 else 'sessions'} of {login.user}" if count else None

    def _end_sessions(self, user: str, kept: Secret) -> None:
        with session(self._settings.server, self._actor(kept)) as entered:
            try:
                entered.ask("end sessions", f"SELECT pg_terminate_backend(pid) {_SESSIONS}", user, APPLICATION)
            except TargetRefused as refusal:  # but the role is altered by now
                raise TargetError(f"{refusal}", hint="GRANT pg_signal_backend to who alters the users") from None

    def _login(self, secret: Secret) -> Login:
        """Raises TargetRefused for a value of another role: whoever writes to the store could name the superuser."""
        user, word = parts_of(secret, *_PARTS)
        if user not in self._settings.users:
            expected = " or ".join(self._settings.users)
            raise TargetRefused(f"{self._settings.server}: expected a value of {expected}, got one of another user")
        return Login(user, Secret(word))

    def _actor(self, good: Secret | None) -> Login:
        if self._settings.admin is not None:
            return self._settings.admin.login()
        if good is None:
            raise TargetRefused(f"{self._settings.server}: nobody is there to alter the users", hint=_HINT)
        return self._login(good)


def _are_same(one: Secret, other: Secret) -> bool:
    return parts_of(one, *_PARTS) == parts_of(other, *_PARTS)
