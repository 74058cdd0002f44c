"""MySQL, 8.0.14 or newer: one account with two passwords, the primary one and an old one that is still accepted.

The value is the plain password. The account may have several hosts (user@host), which change together: each change is
one statement, and MySQL takes it whole or not at all. What each password is, primary or old, is read off the verifiers
that the server keeps, since the statements are treacherous: RETAIN CURRENT PASSWORD throws away the old one, so that,
repeated, it leaves one password twice; and without it the primary is replaced and the old one stays.

Passwords are sent as verifiers, so that no log, binary log or replica has them. The plugin is left as it is, as another
would throw away the old password; caching_sha2_password and mysql_native_password are known, others refused. MySQL does
not tell for certain which password is used, so this target is no witness. Replicas must follow the server named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from opskit.errors import ConfigError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import password
from opskit.secrets.rotation.targets.mysql.server import Access, Place, Session, accepts, administration
from opskit.secrets.rotation.targets.mysql.verifiers import NATIVE, SHA2, matches, verifier

# In hexadecimal, as the salts are any bytes below 128.
_ACCOUNTS = """SELECT Host, plugin, HEX(authentication_string), HEX(User_attributes->>'$.additional_password')
    FROM mysql.user WHERE User = %s"""


@dataclass(frozen=True)
class DualPasswordsSettings:
    """What a rotation of two passwords has to know."""

    access: Access
    user: str
    """The account's name, without hosts."""
    entrance: Place | None = None
    """Where its consumers connect, if elsewhere: a proxy before the server. `verify` logs in there."""


@dataclass(frozen=True)
class _Account:
    """One of the hosts of a user, and what the server keeps of its passwords."""

    host: str
    plugin: str
    primary: bytes
    old: bytes

    def is_primary(self, secret: Secret) -> bool:
        return matches(self.primary, secret.reveal_bytes())

    def is_old(self, secret: Secret) -> bool:
        return matches(self.old, secret.reveal_bytes())


@dataclass(frozen=True)
class _Change:
    """What one host's account is to become: a part of ALTER USER, and what stands for its `%s`."""

    text: str
    values: tuple[str, ...]


class DualPasswords:
    """One account with room for two passwords."""

    keeps_old = True

    def __init__(self, settings: DualPasswordsSettings) -> None:
        """Raises ConfigError where the account is its own administrator: revoking would then bar itself."""
        if settings.user == settings.access.admin:
            raise ConfigError(f"'{settings.user}' cannot be its own administrator: expected another account")
        self._settings = settings
        self._access = settings.access

    def create(self, current: Secret | None, since: float) -> Secret:
        """A random password."""
        return password()

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Make it primary, wherever it is not accepted yet; `current` becomes, or stays, the old one."""
        with administration(self._access) as session:
            accounts = self._accounts(session)
            wanting = [each for each in accounts if not each.is_primary(secret) and not each.is_old(secret)]
            self._run(session, [self._added(each, secret, current) for each in wanting], "set the password")

    def verify(self, secret: Secret) -> bool:
        """By a login from here: of the user's hosts it proves the one that the server takes for this machine."""
        return accepts(self._settings.entrance or self._access.place, self._settings.user, secret)

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Discard it; where it is primary, `kept` takes its place. What is not `final` is done by it too."""
        if secret.reveal_bytes() == kept.reveal_bytes():
            raise TargetRefused(f"the password of '{self._settings.user}' cannot be revoked: it is the one to be kept")
        with administration(self._access) as session:
            changes = [change for each in self._accounts(session) for change in self._removed(each, secret, kept)]
            self._run(session, changes, "discard the password")

    def _added(self, account: _Account, secret: Secret, current: Secret | None) -> _Change:
        if current is not None and account.is_old(current) and not account.is_primary(current):
            # Without RETAIN the old one stays. What is primary here the store does not know as current: a leftover.
            return self._primary(account, secret)
        if account.old and not (current is not None and account.is_old(current)):
            raise TargetRefused(
                f"'{self._settings.user}'@'{account.host}' at {self._access.place} still accepts an older password: "
                "a new one would take its place",
                hint="once nobody uses it: ALTER USER … DISCARD OLD PASSWORD",
            )
        retain = " RETAIN CURRENT PASSWORD" if account.primary else ""  # an empty one cannot be kept
        return self._primary(account, secret, retain)

    def _removed(self, account: _Account, secret: Secret, kept: Secret) -> Iterable[_Change]:
        if account.is_primary(secret):
            yield self._primary(account, kept)
        if account.is_old(secret) or (account.is_primary(secret) and account.is_old(kept)):
            yield _Change("%s@%s DISCARD OLD PASSWORD", (self._settings.user, account.host))

    def _primary(self, account: _Account, secret: Secret, retain: str = "") -> _Change:
        text = f"%s@%s IDENTIFIED WITH %s AS %s{retain}"
        its_verifier = verifier(account.plugin, secret.reveal_bytes())
        return _Change(text, (self._settings.user, account.host, account.plugin, its_verifier))

    def _run(self, session: Session, changes: Sequence[_Change], deed: str) -> None:
        if changes:
            statement = f"ALTER USER {', '.join(each.text for each in changes)}"
            values = [value for each in changes for value in each.values]
            session.run(statement, values, f"{deed} of '{self._settings.user}'")

    def _accounts(self, session: Session) -> list[_Account]:
        """Raises TargetRefused where there is none, or one of an unknown plugin."""
        user, place = self._settings.user, self._access.place
        rows = session.run(_ACCOUNTS, (user,), "read the table of accounts")
        if not rows:
            raise TargetRefused(f"{place} has no account '{user}'")
        for host, plugin, _, _ in rows:
            if plugin not in (NATIVE, SHA2):
                raise TargetRefused(
                    f"'{user}'@'{host}' at {place} logs in in another way: expected {SHA2} or {NATIVE}, got {plugin}"
                )
        return [
            _Account(host, plugin, bytes.fromhex(primary or ""), bytes.fromhex(old or ""))
            for host, plugin, primary, old in rows
        ]
