"""Sessions with a PostgreSQL server, by psycopg, its one owner: log in, run statements, within a limit of time.

Invariants: a password leaves this process only as the answer to the server's question for it (with SCRAM: as a proof),
and in ALTER ROLE as the verifier that is computed here, so that no log and no pg_stat_statements gets to see it. TCP is
TLS with the server's name verified, unless the settings say otherwise; nothing falls back to plain text. Statements run
in one transaction, so that a connection that breaks before COMMIT has changed nothing, even where the server is still
waiting for a lock then. libpq's PQchangePassword is not used: it waits for ever, and where the server is set to md5 it
sends a hash that is as good as the password.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from opskit.errors import ProgramMissing, TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import TIMEOUT, password

if TYPE_CHECKING:
    from psycopg import Connection, sql

APPLICATION = "opskit rotation"
"""What sessions of this module are called in pg_stat_activity."""
_SECONDS = TIMEOUT
"""How long a login, and then all that is asked in a session, is waited for."""
_STATEMENT_SECONDS = TIMEOUT / 2
"""How long the server works on one statement: less, so that its answer is heard."""
_MEANS_NO = ("0A", "22", "25", "28", "42")
"""Classes of SQLSTATE (PostgreSQL manual, appendix A) by which a server refuses a statement."""
_REFUSALS = ("password authentication failed", "is not permitted to log in")
_BY_THE_SERVER = re.compile(r".*\S:  \S")
"""How libpq begins the text of a server, as in `FATAL:  …`, whatever the language; its own texts have no two blanks."""
_SHOWN = 300
_SCRAM = "scram-sha-256"

Change = Literal["", "LOGIN", "NOLOGIN", "NOLOGIN PASSWORD NULL"]
"""What is changed of a role beside its password."""


@dataclass(frozen=True)
class Server:
    """Where a server is."""

    host: str
    """A name, an address, or the folder of a socket (an absolute path)."""
    port: int = 5432
    database: str = "postgres"
    """The one that is connected to."""
    sslmode: Literal["disable", "require", "verify-ca", "verify-full"] = "verify-full"
    """For TCP alone. libpq's allow and prefer are left out: they fall back to plain text."""
    sslrootcert: str | None = None
    """A file of certificates, or `system` (libpq 16); None: libpq's default, ~/.postgresql/root.crt."""

    def __str__(self) -> str:
        return f"postgresql at {self.host}:{self.port}"


class Login(NamedTuple):
    """Who logs in."""

    user: str
    password: Secret | None
    is_admin: bool = False


@dataclass(frozen=True)
class Admin:
    """Who may alter the users: a role with CREATEROLE, from PostgreSQL 16 on also with ADMIN OPTION on each of them."""

    user: str
    password: Callable[[], Secret] | None = None
    """Called for each connection. None: the server lets this user in without, as with peer or a certificate."""

    def login(self) -> Login:
        """With the password as it is now."""
        return Login(self.user, None if self.password is None else self.password(), is_admin=True)


class LoginRefused(TargetRefused):
    """The server does not accept the password, or lets the user not log in."""


class NotLetIn(TargetError):
    """The server asked for the password, and let the user not in, for a reason that is not understood."""


class Session:
    """What can be asked. Raises TargetRefused where the server said no and changed nothing, else TargetError."""

    def __init__(self, connection: Connection[Any], server: Server, login: Login) -> None:
        self._connection, self._login = connection, login
        self._where = f"{server} as {login.user}"

    @property
    def was_asked_for_the_password(self) -> bool:
        """False where anybody was let in, or whom the system or a certificate vouches for."""
        return self._connection.pgconn.used_password

    def ask(self, deed: str, query: str | sql.Composed, *values: str) -> list[tuple[Any, ...]]:
        """The rows of a query, none where it has none; `deed` says in an error what was tried."""
        with _told(f"{self._where}: cannot {deed}"):
            # Bytes are what psycopg takes where the text is no literal of the program, but of the settings.
            statement = query.encode() if isinstance(query, str) else query
            cursor = self._connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def alter(self, role: str, change: Change, secret: Secret | None = None) -> None:
        """Change a role, its password to `secret` if there is one, and commit."""
        from psycopg import sql

        if not self._login.is_admin:
            # A user that becomes the owner at login may not alter itself as that one. RESET ROLE leads there again.
            self.ask("act as itself", "SET LOCAL ROLE NONE")
        statement = sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(role), sql.SQL(change))
        if secret is not None:
            statement += sql.SQL(" PASSWORD {}").format(sql.Literal(self._verifier(role, secret)))
        try:
            self.ask(f"alter the role {role}", statement)
        except TargetRefused as refusal:
            refusal.hint = f"who alters {role} needs CREATEROLE, from PostgreSQL 16 on ADMIN OPTION on it as well"
            raise
        with _told(f"{self._where}: cannot say whether the role {role} was altered"):
            self._connection.commit()

    def _verifier(self, role: str, secret: Secret) -> str:
        (kind,) = self.ask("ask how passwords are kept", "SHOW password_encryption")[0]
        if kind != _SCRAM:
            raise TargetRefused(
                f"{self._where}: expected password_encryption {_SCRAM}, got {kind}",
                hint=f"once all clients know SCRAM: ALTER SYSTEM SET password_encryption = '{_SCRAM}'",
            )
        made = self._connection.pgconn.encrypt_password(secret.reveal_bytes(), role.encode(), _SCRAM.encode())
        return made.decode()


@contextmanager
def session(server: Server, login: Login) -> Iterator[Session]:
    """Log in for the block; what was not committed is undone at its end.

    Raises LoginRefused, NotLetIn, TargetError.
    """
    found = _attempt(server, login)
    if isinstance(found, _Failure):
        if _is_refusal(server, login, found):
            raise LoginRefused(f"{server}: the login of {login.user} is refused")
        kind = NotLetIn if found.was_asked else TargetError
        raise kind(f"{server}: no login as {login.user}: {found.shown(login)}")
    with closing(found), _limited(found):
        entered = Session(found, server, login)
        # After this the server rolls back, whatever the statement waits for.
        entered.ask("limit the time", f"SET LOCAL statement_timeout = {round(_STATEMENT_SECONDS * 1000)}")
        yield entered


class _Failure(NamedTuple):
    """Why there is no connection."""

    text: str
    was_asked: bool
    """Whether the server had asked for the password, and got it."""

    def shown(self, login: Login) -> str:
        """In one line; nothing where it would show the password, for the server has it if it wants to."""
        text = " ".join(self.text.split())[:_SHOWN]
        secret = login.password
        return "no reason that can be shown" if secret is not None and secret.reveal() in self.text else text


def _attempt(server: Server, login: Login) -> Connection[Any] | _Failure:
    psycopg = _library()
    given: dict[str, Any] = {"host": server.host, "port": server.port, "dbname": server.database, "user": login.user}
    if login.password is not None:
        # Without a value, or a file, libpq would go and find another password: ~/.pgpass, PGPASSWORD.
        given |= {"password": login.password.reveal(), "passfile": os.devnull}
    if server.sslrootcert is not None:
        given["sslrootcert"] = server.sslrootcert
    try:
        connection: Connection[Any] = psycopg.connect(
            **given,
            sslmode="disable" if server.host.startswith("/") else server.sslmode,
            gssencmode="disable",
            connect_timeout=round(_SECONDS),
            application_name=APPLICATION,
            prepare_threshold=None,  # poolers
        )
    except psycopg.Error as error:
        # Errors of other kinds are about the parameters, and may repeat them.
        text = str(error) if isinstance(error, psycopg.OperationalError) else type(error).__name__
        return _Failure(text, error.pgconn is not None and error.pgconn.used_password)
    return connection


def _library() -> ModuleType:
    try:
        import psycopg
    except ImportError:
        raise ProgramMissing(
            "rotating passwords of postgresql needs the Python package psycopg, got none",
            hint="install it beside opskit: pip install 'opskit[postgresql]'",
        ) from None
    return psycopg


def _is_refusal(server: Server, login: Login, failure: _Failure) -> bool:
    """Whether it is about the password. libpq gives no code, and the server's text is in the server's language.

    So where it is not English, it is compared with what is said of a password that is wrong for certain.
    """
    if not failure.was_asked or not _BY_THE_SERVER.match(failure.text):
        return False
    if any(text in failure.text for text in _REFUSALS):
        return True
    other = _attempt(server, Login(login.user, password()))
    if isinstance(other, _Failure):
        return other == failure
    other.close()
    return False


@contextmanager
def _told(deed: str) -> Iterator[None]:
    """Errors of psycopg, without their text and without a cause: both may carry the statement."""
    psycopg = _library()
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate
        if state is None:
            raise TargetError(f"{deed}: the connection was lost, or took longer than {_SECONDS:g} s") from None
        kind = TargetRefused if state.startswith(_MEANS_NO) else TargetError
        raise kind(f"{deed}: the server says {type(error).__name__} ({state})") from None


@contextmanager
def _limited(connection: Connection[Any]) -> Iterator[None]:
    """Cut the connection when it takes too long: a server that hangs does not answer a request to cancel either."""
    end = socket.socket(fileno=os.dup(connection.fileno()))

    def cut() -> None:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(_SECONDS, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        end.close()
