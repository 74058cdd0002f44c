"""Talks to MariaDB and MySQL servers, by PyMySQL, its one owner: one connection a deed, none is kept.

Invariants: over TCP a password is sent only after TLS showed a certificate for the server's name by a known authority,
unless the settings say otherwise; a unix socket needs none. Every wait ends after TIMEOUT. No message holds what the
library or the server wrote, as that can repeat statements. What the server refused for certain is told from all else
by its error number, from a list: what is not in it counts as unknown.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from opskit.errors import ProgramMissing, TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import TIMEOUT

_LOGIN = {1045: "no such account and password", 1698: "no such account and password"}
_LOGIN |= {3118: "the account is locked", 4151: "the account is locked"}  # MySQL, MariaDB
_LOGIN |= {1862: "the password has expired", 1820: "the password has expired"}
_RIGHT = frozenset({1044, 1142, 1143, 1227})
_REFUSED = {
    1054: "its table of accounts is another; is it of the kind and version that is expected?",
    1064: "it does not know the statement; is it of a version that is supported?",
    1146: "it does not have the table of accounts; is it of the kind and version that is expected?",
    1290: "it changes no accounts: it is read-only, or MariaDB's strict_password_validation bars hashed passwords",
    1836: "it is read-only",
    1819: "its policy of passwords bars the value",
    3638: "its history of passwords bars the value",
}
_BLOCKED = {
    1040: "it has too many connections",
    1129: "it has blocked this host after failed connections: FLUSH HOSTS",
    1130: "it lets no account connect from this host",
    4150: "it has blocked the account after failed logins: FLUSH PRIVILEGES",
}
_PLUGIN_UNKNOWN = frozenset({2059, 2061})

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """Where a server listens, or a proxy before it."""

    host: str = "localhost"
    port: int = 3306
    socket: str | None = None
    """The path of a unix socket, in place of host and port."""
    tls: bool = True
    """Over TCP: whether to encrypt, and to verify the server's certificate; without, others can read passwords."""
    ca_file: str | None = None
    """The authorities that may have signed the certificate; None: those that this machine trusts."""

    def __str__(self) -> str:
        return self.socket or f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Access:
    """The administrator's way in. It needs CREATE USER, and SELECT on the table of accounts in `mysql`."""

    place: Place
    admin: str
    password: Callable[[], Secret] | None = None
    """Resolved at each connection; None: the server knows the administrator by the socket."""


class Session:
    """The administrator's connection."""

    def __init__(self, connection: Any, access: Access) -> None:
        self._connection = connection
        self._access = access

    def run(self, statement: str, values: Sequence[object], deed: str) -> Sequence[Row]:
        """The rows of one statement, each `%s` in it replaced by a value, quoted; `deed` says in messages what it does.

        Raises TargetRefused where the server refused it for certain, else TargetError.
        """
        with _told_apart(self._access.place, self._access.admin, deed):
            with self._connection.cursor() as cursor:
                cursor.execute(statement, tuple(values))
                rows: Sequence[Row] = cursor.fetchall()
                return rows


@contextmanager
def administration(access: Access) -> Iterator[Session]:
    """A session of the administrator. Raises TargetRefused where the login is refused, TargetError."""
    password = access.password() if access.password else Secret("")
    with _told_apart(access.place, access.admin, "log in"):
        connection = _connected(access.place, access.admin, password)
    with closing(connection):
        yield Session(connection, access)


def accepts(place: Place, user: str, password: Secret) -> bool:
    """Whether a new connection can log in and ask something; one attempt. Raises TargetError where nobody can say."""
    try:
        with _told_apart(place, user, "log in"), closing(_connected(place, user, password)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")  # with an expired password the login succeeds, and no more
    except _LoginRefused:
        return False
    return True


class _LoginRefused(TargetRefused):
    """No such account and password, or it is of no use."""


def _connected(place: Place, user: str, password: Secret) -> Any:
    context = None if place.socket or not place.tls else _trusting(place)
    return _library().connect(
        user=user,
        password=password.reveal_bytes(),  # of a str the library would send Latin-1
        host=place.host,
        port=place.port,
        unix_socket=place.socket,
        ssl=context,
        ssl_disabled=context is None,  # else it would try TLS, and trust anybody
        connect_timeout=TIMEOUT,
        read_timeout=TIMEOUT,
        write_timeout=TIMEOUT,
        charset="utf8mb4",
        autocommit=True,
    )


def _library() -> ModuleType:
    try:
        import pymysql
    except ImportError:
        raise ProgramMissing(
            "passwords of MySQL and MariaDB need the Python package pymysql, got none",
            hint="install it beside opskit: pip install 'opskit[mysql]'",
        ) from None
    module: ModuleType = pymysql
    return module


def _trusting(place: Place) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=place.ca_file)
    except OSError:
        raise TargetRefused(
            f"the certificates for {place} cannot be used: expected a file of them, got {place.ca_file}"
        ) from None


@contextmanager
def _told_apart(place: Place, user: str, deed: str) -> Iterator[None]:
    try:
        yield
    except (TargetError, ProgramMissing):
        raise
    except Exception as error:  # the library lets out what its parsing and its own dependencies raise, too
        raise _failure(error, f"'{user}' cannot {deed} at {place}") from None


def _failure(error: Exception, start: str) -> TargetError:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    if number in _LOGIN:
        return _LoginRefused(f"{start}: {_LOGIN[number]}")
    if number in _RIGHT:
        return TargetRefused(
            f"{start}: it has no right to that",
            hint="the administrator needs CREATE USER, SELECT on mysql.*, and for MariaDB PROCESS",
        )
    if number in _REFUSED:
        return TargetRefused(f"{start}: {_REFUSED[number]}")
    if number in _BLOCKED:
        return TargetError(f"{start}: {_BLOCKED[number]}")
    if number in _PLUGIN_UNKNOWN or isinstance(error, RuntimeError):  # a package for a plugin is missing
        return TargetError(f"{start}: the account logs in in a way that opskit does not know")
    if isinstance(getattr(error, "original_exception", None), ssl.SSLError):
        return TargetError(
            f"{start}: the server is not trusted: expected a certificate for that name by a known authority",
            hint="ca_file names the authority that signed it",
        )
    if 2000 <= number < 3000:  # of the client, not the server
        return TargetError(f"{start}: it cannot be reached, does not offer TLS, or broke off (error {number})")
    return TargetError(f"{start}: what came of it is not known (error {number or type(error).__name__})")
