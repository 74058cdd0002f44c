"""A MariaDB and a MySQL for tests of rotation, one of each a process; every test makes accounts of its own."""

from __future__ import annotations

import atexit
import itertools
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pymysql

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import document
from opskit.secrets.rotation.targets.mysql.alternating import AlternatingUsers, AlternatingUsersSettings
from opskit.secrets.rotation.targets.mysql.dual import DualPasswords, DualPasswordsSettings
from opskit.secrets.rotation.targets.mysql.server import Access, Place
from tests import database_servers
from tests.secrets.rotation.certificates import certificate
from tests.secrets.rotation.ports import free_port

ADMIN_PASSWORD = "adm:in\\'\"ä"
HOSTS = ("localhost", "10.%")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class SqlServer:
    """A running server: its folder with all its logs, and the ways in."""

    folder: Path
    socket: Path
    port: int = 0
    ca_file: Path | None = None

    @property
    def place(self) -> Place:
        return Place(socket=str(self.socket))

    def access(self) -> Access:
        """Of the user `rotator`, who has just the rights that are asked for."""
        return Access(self.place, "rotator", lambda: Secret(ADMIN_PASSWORD))

    def connect(self, user: str = "root", password: str = "") -> Any:
        return pymysql.connect(
            unix_socket=str(self.socket), user=user, password=password.encode(), autocommit=True, ssl_disabled=True
        )

    def sql(self, statement: str, *values: object) -> tuple[tuple[Any, ...], ...]:
        """As root."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return tuple(cursor.fetchall())

    def log_files(self) -> list[Path]:
        """All that it writes outside its tables: the general and the error log, and the binary log."""
        return [path for name in ("log", "data/general", "data/binary.0*") for path in self.folder.glob(name)]

    def logged(self) -> bytes:
        """What they say."""
        return b"".join(path.read_bytes() for path in self.log_files())


@cache
def mariadb_server() -> SqlServer:
    """With TLS, a general log and a binary log."""
    stack, port = ExitStack(), free_port()
    atexit.register(stack.close)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ok-cert-", dir="/tmp")))
    folder.chmod(0o755)
    public, private = certificate(folder)
    options = [f"--port={port}", "--bind-address=127.0.0.1", f"--ssl-cert={public}", f"--ssl-key={private}"]
    options += ["--general-log", "--general-log-file=general", "--log-bin=binary", "--server-id=1", "--log-warnings=9"]
    server = stack.enter_context(database_servers.mariadb(*options))
    made = SqlServer(server.socket.parent, server.socket, port, public)
    made.sql("CREATE USER rotator@localhost IDENTIFIED BY %s", ADMIN_PASSWORD)
    made.sql("GRANT CREATE USER, PROCESS ON *.* TO rotator@localhost")
    made.sql("GRANT SELECT ON mysql.global_priv TO rotator@localhost")
    return made


def alternating_users() -> tuple[AlternatingUsers, Secret]:
    """A target of two accounts that nobody else has, and the value that is in use."""
    server, number = mariadb_server(), next(_numbers)
    users = (f"app{number}_a", f"app{number}_b")
    for user in users:
        for host in HOSTS:
            server.sql("CREATE USER %s@%s IDENTIFIED BY %s", user, host, f"first-of-{user}")
    target = AlternatingUsers(AlternatingUsersSettings(server.access(), users))
    return target, document({"username": users[0], "password": f"first-of-{users[0]}"})


@cache
def mysql_server() -> SqlServer:
    """With a general log and a binary log."""
    stack = ExitStack()
    atexit.register(stack.close)
    options = ["--general-log", "--general-log-file=general", "--log-bin=binary", "--log-error-verbosity=3"]
    server = stack.enter_context(database_servers.mysql(*options))
    made = SqlServer(server.socket.parent, server.socket)
    made.sql("CREATE USER rotator@localhost IDENTIFIED BY %s", ADMIN_PASSWORD)
    made.sql("GRANT CREATE USER ON *.* TO rotator@localhost")
    made.sql("GRANT SELECT ON mysql.user TO rotator@localhost")
    return made


def dual_passwords() -> tuple[DualPasswords, Secret]:
    """A target of one account that nobody else has, and the value that is in use."""
    server, user = mysql_server(), f"app{next(_numbers)}"
    for host in HOSTS:
        server.sql("CREATE USER %s@%s IDENTIFIED BY %s", user, host, "first")
    return DualPasswords(DualPasswordsSettings(server.access(), user)), Secret("first")
