"""What both kinds of PostgreSQL target share: their settings, and the question whether a login works."""

from __future__ import annotations

from dataclasses import dataclass

from opskit.errors import TargetError
from opskit.secrets.rotation.targets.postgresql.server import Admin, Login, LoginRefused, NotLetIn, Server, session


@dataclass(frozen=True, kw_only=True)
class Access:
    """Where roles are altered and by whom, and how a login is judged."""

    server: Server
    admin: Admin | None = None
    """Who alters the users; None: they do it themselves."""
    users_connect_to: Server | None = None
    """Where the users themselves connect, a pooler for one; None: to the server."""
    query: str | None = None
    """What a user must be allowed, as SQL; it is rolled back. None: only the login is tried."""


def accepts(access: Access, login: Login, acts_as: str | None = None) -> bool:
    """Whether a user can log in, by a new connection, and, if so, become `acts_as` and do what the query asks.

    Raises TargetRefused where the query is refused; TargetError where nothing is proved, as where the server does not
    ask for the password.
    """
    place = access.users_connect_to or access.server
    try:
        with session(place, login) as entered:
            if not entered.was_asked_for_the_password:
                raise TargetError(
                    f"{place}: {login.user} is let in without the password, so nothing is proved",
                    hint="expected scram-sha-256 for it in pg_hba.conf, got another method",
                )
            (found,) = entered.ask("ask who it is", "SELECT session_user, current_user")
            _require(place, login.user, found, acts_as)
            if access.query is not None:
                entered.ask("do what the query of the settings asks", access.query)
    except LoginRefused:
        return False
    except NotLetIn:
        if access.admin is not None and _is_disabled(access.server, access.admin, login.user):
            return False
        raise
    return True


def _require(place: Server, user: str, found: tuple[str, str], acts_as: str | None) -> None:
    session_user, current_user = found
    if session_user != user:
        raise TargetError(f"{place}: expected to be logged in as {user}, got {session_user}")
    if acts_as is not None and current_user != acts_as:
        raise TargetError(
            f"{place}: expected {user} to act as {acts_as}, got {current_user}",
            hint=f"what one user makes, the other could not use: ALTER ROLE {user} SET role = {acts_as}",
        )


def _is_disabled(server: Server, admin: Admin, user: str) -> bool:
    with session(server, admin.login()) as entered:
        query = "SELECT rolcanlogin FROM pg_catalog.pg_roles WHERE rolname = %s"
        return entered.ask("ask whether a role may log in", query, user) == [(False,)]
