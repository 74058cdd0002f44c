"""Two accounts of a real MariaDB in turn, and two passwords of an account of a real MySQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contracts.targets import KINDS, Lab
from tests.secrets.rotation.sql_servers import alternating_users, dual_passwords


@contextmanager
def _mariadb(_folder: Path) -> Iterator[Lab]:
    yield Lab(*alternating_users())


@contextmanager
def _mysql(_folder: Path) -> Iterator[Lab]:
    yield Lab(*dual_passwords())


KINDS["mariadb-alternating-users"] = _mariadb
KINDS["mysql-dual-passwords"] = _mysql
