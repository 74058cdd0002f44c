"""A real PostgreSQL: one user and two that take turns, altered by an administrator and by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.secrets.rotation.targets.postgresql import PostgresqlAlternating, PostgresqlUser
from tests.contracts.targets import KINDS, Lab
from tests.secrets.rotation import postgresql_server


@contextmanager
def _user(_folder: Path) -> Iterator[Lab]:
    settings, first = postgresql_server.shared().single(postgresql_server.admin())
    yield Lab(PostgresqlUser(settings), first)


@contextmanager
def _user_alone(_folder: Path) -> Iterator[Lab]:
    settings, first = postgresql_server.shared().single()
    yield Lab(PostgresqlUser(settings), first)


@contextmanager
def _alternating(_folder: Path) -> Iterator[Lab]:
    settings, first = postgresql_server.shared().alternating(postgresql_server.admin())
    yield Lab(PostgresqlAlternating(settings), first)


@contextmanager
def _alternating_alone(_folder: Path) -> Iterator[Lab]:
    settings, first = postgresql_server.shared().alternating(options="CREATEROLE")
    yield Lab(PostgresqlAlternating(settings), first)


KINDS["postgresql-user"] = _user
KINDS["postgresql-user-alone"] = _user_alone
KINDS["postgresql-alternating"] = _alternating
KINDS["postgresql-alternating-alone"] = _alternating_alone
