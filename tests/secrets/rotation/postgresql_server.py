"""A PostgreSQL server for tests of rotation: it logs all that it is told, and has roles by the number."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import document, parts_of, password
from opskit.secrets.rotation.targets.postgresql import Admin, AlternatingUsers, Server, SingleUser
from tests import database_servers

ADMIN = "rotator"
ADMIN_PASSWORD = password()
CARELESS = "careless"
"""A role that is let in without a password, and may alter others."""
_ADMIN_OPTION = 160_000
"""From this version on CREATEROLE alone does not do."""
OWNERS_OF_FILES = ("nobody", "nogroup")

_numbers = itertools.count(1)


class Running(NamedTuple):
    """A server, and a session with it as its superuser."""

    server: database_servers.Server
    where: Server
    superuser: psycopg.Connection[Any]

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.server.socket / "log").read_text(errors="replace")

    @property
    def lets_two_alter_one_another(self) -> bool:
        """Whether CREATEROLE alone lets a role alter others: before PostgreSQL 16."""
        return self.superuser.info.server_version < _ADMIN_OPTION

    def sql(self, *statements: str) -> list[Any]:
        """The first column of the last statement's rows, if it has any."""
        for statement in statements:
            cursor = self.superuser.execute(statement.encode())
        return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def role(self, options: str = "LOGIN", secret: Secret | None = None) -> str:
        """Make one."""
        name = f"role{next(_numbers)}"
        word = "" if secret is None else f" PASSWORD '{_verifier(self.superuser, name, secret)}'"
        self.sql(f"CREATE ROLE {name} {options}{word}")
        self.give(name, ADMIN, CARELESS)
        return name

    def give(self, role: str, *admins: str) -> None:
        """Let roles with CREATEROLE alter another one; before PostgreSQL 16 they may alter all."""
        if not self.lets_two_alter_one_another:
            self.sql(*(f"GRANT {role} TO {each} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE" for each in admins))

    def single(self, admin: Admin | None = None, options: str = "LOGIN") -> tuple[SingleUser, Secret]:
        """A user, and its password."""
        first = password()
        return SingleUser(server=self.where, user=self.role(options, first), admin=admin), first

    def alternating(self, admin: Admin | None = None, options: str = "") -> tuple[AlternatingUsers, Secret]:
        """Two users of one owner, and the value of the first; the second can not log in yet."""
        if "CREATEROLE" in options and admin is None and not self.lets_two_alter_one_another:
            pytest.skip("from PostgreSQL 16 on two roles cannot alter one another: an administrator is needed")
        first, owner = password(), self.role("NOLOGIN")
        member = f"{options} IN ROLE {owner}"
        users = (self.role(f"LOGIN {member}", first), self.role(f"NOLOGIN {member}"))
        self.sql(*(f"ALTER ROLE {user} SET role = {owner}" for user in users))
        found = AlternatingUsers(server=self.where, users=users, owner=owner, admin=admin)
        return found, document({"username": users[0], "password": first.reveal()})


def _verifier(superuser: psycopg.Connection[Any], role: str, secret: Secret) -> str:
    """Tests search the log for passwords, so they write none into it themselves."""
    made = superuser.pgconn.encrypt_password(secret.reveal_bytes(), role.encode(), b"scram-sha-256")
    return made.decode()


def admin() -> Admin:
    """Who may alter roles, and is no superuser."""
    return Admin(ADMIN, lambda: ADMIN_PASSWORD)


@contextlib.contextmanager
def started(*lines: str, port: int = 5432, **options: str) -> Iterator[Running]:
    """A server with more lines in pg_hba.conf and more options."""
    logs = {"log_statement": "all", "log_min_duration_statement": "0", "log_connections": "on"}
    with database_servers.postgresql(**logs, port=str(port), **options) as server:
        access = server.socket / "data" / "pg_hba.conf"
        access.write_text("\n".join((f"local all {CARELESS} trust", *lines, access.read_text())))
        where = Server(str(server.socket), port=port)
        with psycopg.connect(
            host=where.host, port=port, user="postgres", password=database_servers.PASSWORD, autocommit=True
        ) as superuser:
            verifier = _verifier(superuser, ADMIN, ADMIN_PASSWORD)
            superuser.execute("SELECT pg_reload_conf()")
            superuser.execute(f"CREATE ROLE {ADMIN} LOGIN CREATEROLE PASSWORD '{verifier}' IN ROLE pg_signal_backend")
            superuser.execute(f"CREATE ROLE {CARELESS} LOGIN CREATEROLE")
            yield Running(server, where, superuser)


@cache
def shared() -> Running:
    """One for all tests of this process, who make their own roles; it ends with the process."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(started())


def parts(value: Secret) -> tuple[str, ...]:
    """The user and the password of a value of two users."""
    return parts_of(value, "username", "password")


def hand_over(path: Path) -> Path:
    """Give a file to the user that the server runs as."""
    with contextlib.suppress(PermissionError):  # then it runs as this one
        shutil.chown(path, *OWNERS_OF_FILES)
    path.chmod(0o600)
    return path
