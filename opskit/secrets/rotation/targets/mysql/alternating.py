"""MariaDB: two accounts of equal rights in turn, as it keeps one password an account; 10.4.2 or newer.

The value is a JSON object of `username` and `password`. Both accounts were made by the administrator of the database,
with the same rights (best by one role, which is the default role of both), and may have several hosts (user@host):
whatever is done is done to all of them. An account that is out of use is locked, then given a verifier of no password;
it is never dropped. Connections that are open stay open: `in_use` tells of them.

Passwords are sent as verifiers of mysql_native_password, so that no log, binary log or replica has them. ed25519 would
withstand guessing better, but guessing 238 bits is hopeless, and it would have to be known here and by every consumer;
an account that logs in in another way is left alone. Replicas must follow the server that is named here.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from opskit.errors import ConfigError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import document, parts_of, password
from opskit.secrets.rotation.targets.mysql.server import Access, Place, Session, accepts, administration
from opskit.secrets.rotation.targets.mysql.verifiers import NATIVE, native

_ACCOUNTS = """SELECT Host, JSON_VALUE(Priv, '$.plugin'), JSON_VALUE(Priv, '$.authentication_string'),
    JSON_EXISTS(Priv, '$.auth_or') FROM mysql.global_priv WHERE User = %s AND NOT JSON_EXISTS(Priv, '$.is_role')"""
_OPEN = "SELECT HOST FROM information_schema.PROCESSLIST WHERE BINARY USER = %s"
_NEEDS_PROCESS = "SELECT COUNT(*) FROM information_schema.INNODB_TRX"


@dataclass(frozen=True)
class AlternatingUsersSettings:
    """What a rotation of two accounts has to know."""

    access: Access
    """The administrator's; `in_use` needs the right PROCESS besides."""
    users: tuple[str, str]
    """Their names, without hosts."""
    entrance: Place | None = None
    """Where their consumers connect, if elsewhere: a proxy before the server. `verify` logs in there."""


@dataclass(frozen=True)
class _Account:
    """One of the hosts of a user."""

    host: str
    plugin: str
    verifier: str

    def is_known(self) -> bool:
        return self.plugin == NATIVE


class AlternatingUsers:
    """Two accounts: one in use, the other next."""

    keeps_old = True

    def __init__(self, settings: AlternatingUsersSettings) -> None:
        """Raises ConfigError unless there are two, and the administrator is another."""
        if len({*settings.users, settings.access.admin}) != 3:
            raise ConfigError(
                f"the users of {settings.access.place} do not alternate: expected two, and an administrator beside them"
            )
        self._settings = settings
        self._access = settings.access

    def create(self, current: Secret | None, since: float) -> Secret:
        """For the account that is not in use; of none in use, the first."""
        first, second = self._settings.users
        user = second if current is not None and self._parts(current)[0] == first else first
        return document({"username": user, "password": password().reveal()})

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Set the password, and unlock."""
        user, new = self._parts(secret)
        if current is not None and self._parts(current)[0] == user and self._parts(current)[1] != new:
            raise TargetRefused(f"'{user}' is in use: expected a value for the other account, got one for the same")
        with administration(self._access) as session:
            accounts = self._accounts(session, user)
            self._require_usable(user, accounts)
            change = (
                f"ALTER USER {', '.join([f'%s@%s IDENTIFIED VIA {NATIVE} USING %s'] * len(accounts))} ACCOUNT UNLOCK"
            )
            values = [value for each in accounts for value in (user, each.host, native(new.encode()))]
            session.run(change, values, f"set the password of '{user}'")

    def verify(self, secret: Secret) -> bool:
        """By a login from here: of the user's hosts it proves the one that the server takes for this machine."""
        user, its_password = self._parts(secret)
        return accepts(self._settings.entrance or self._access.place, user, Secret(its_password))

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Lock the account, unless it has got another password since; `final` takes its password as well."""
        user, old = self._parts(secret)
        other, its_password = self._parts(kept)
        if user == other:
            if old == its_password:
                raise TargetRefused(f"the value of '{user}' cannot be revoked: it is the one to be kept")
            return  # an account has one password, and the kept one is accepted
        with administration(self._access) as session:
            stored = native(old.encode())
            accounts = [
                each for each in self._accounts(session, user) if each.verifier == stored or not each.is_known()
            ]
            if not accounts:
                return
            nobodys = f" IDENTIFIED VIA {NATIVE} USING '*{secrets.token_hex(20).upper()}'" if final else ""
            change = f"ALTER USER {', '.join([f'%s@%s{nobodys}'] * len(accounts))} ACCOUNT LOCK"
            session.run(change, [value for each in accounts for value in (user, each.host)], f"lock '{user}'")

    def in_use(self, secret: Secret, kept: Secret, since: float) -> str | None:
        """Connections that are open now on this server, whenever they were opened; it keeps no record of others."""
        user, _ = self._parts(secret)
        with administration(self._access) as session:
            # Without that right the server would show no other connections, and say nothing of it.
            session.run(_NEEDS_PROCESS, (), "see connections")
            hosts = [
                str(host).rpartition(":")[0] or str(host) for (host,) in session.run(_OPEN, (user,), "see connections")
            ]
        if not hosts:
            return None
        return (
            f"{len(hosts)} open connections of '{user}' to {self._access.place}, from {', '.join(sorted(set(hosts)))}"
        )

    def _parts(self, secret: Secret) -> tuple[str, str]:
        """User and password; raises TargetRefused for a user who is not of these two."""
        user, its_password = parts_of(secret, "username", "password")
        if user not in self._settings.users:
            first, second = self._settings.users
            raise TargetRefused(
                f"the value in the store is of another user: expected '{first}' or '{second}', got '{user}'"
            )
        return user, its_password

    def _accounts(self, session: Session, user: str) -> list[_Account]:
        rows = session.run(_ACCOUNTS, (user,), "read the table of accounts")
        return [
            _Account(host, "several ways" if several else plugin or NATIVE, verifier or "")
            for host, plugin, verifier, several in rows
        ]

    def _require_usable(self, user: str, accounts: Sequence[_Account]) -> None:
        """Raises TargetRefused."""
        if not accounts:
            raise TargetRefused(
                f"{self._access.place} has no account '{user}'",
                hint="make both users once, with the same rights: CREATE USER, GRANT",
            )
        for each in accounts:
            if not each.is_known():
                raise TargetRefused(
                    f"'{user}'@'{each.host}' at {self._access.place} logs in in another way: "
                    f"expected {NATIVE}, got {each.plugin}"
                )
