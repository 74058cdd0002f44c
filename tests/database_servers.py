"""Real database servers for tests: one PostgreSQL, MariaDB and MySQL a session, on sockets in a folder of their own.

They run as an unprivileged user, as neither does as root, without durability, and end with the test process however
that ends. Passwords are asked of everybody but the user `nobody` of PostgreSQL, whom the system vouches for.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pymysql
import pytest

UNPRIVILEGED = "nobody"
PASSWORD = "s:e\\c r\"e't#pä"
WAIT_SECONDS = 60


class Server(NamedTuple):
    """A running server; `sql` runs statements as its administrator and gives lines of tab-separated columns."""

    socket: Path
    """The folder of PostgreSQL's socket, or MariaDB's socket."""
    user: str
    process: subprocess.Popen[bytes]
    sql: Callable[..., list[str]]


def _as_nobody() -> list[str]:
    """The start of a command line that leaves root, and ends with this process."""
    words = ["setpriv", "--pdeathsig=QUIT"]
    if os.geteuid() == 0:
        words += [f"--reuid={UNPRIVILEGED}", "--regid=nogroup", "--clear-groups"]
    return words


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder of that user with a short path: a socket's has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="ok-db-", dir="/tmp"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, UNPRIVILEGED, "nogroup")
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require(*programs: str) -> None:
    """Skip, by name, where a program is missing; under CI they are there, or scripts/system-packages failed."""
    absent = [program for program in programs if _found(program) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed")


def _found(program: str) -> str | None:
    """Debian keeps servers where only root's PATH leads."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")


def _started(command: Sequence[str], log: Path, is_ready: Callable[[], bool]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen([*_as_nobody(), *command], stdout=output, stderr=output, cwd="/")
    end = time.monotonic() + WAIT_SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
    return process


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _lines(command: Sequence[str], **environ: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environ}, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def postgresql_programs() -> Path | None:
    """Debian keeps the server's programs out of PATH."""
    found = shutil.which("postgres")
    folders = [str(Path(found).resolve().parent)] if found else sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return next((Path(each) for each in reversed(folders) if Path(each, "initdb").exists()), None)


@contextmanager
def postgresql(**more: str) -> Iterator[Server]:
    """A PostgreSQL server whose superuser `postgres` needs PASSWORD, on a socket; `more` are options of it."""
    _require("psql", "pg_dump", "pg_dumpall", "pg_isready", "setpriv")
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("postgres not installed")
    with _folder() as folder:
        data, secret = folder / "data", folder / "password"
        secret.write_text(PASSWORD)
        made = [
            str(programs / "initdb"),
            "--no-sync",
            "--username=postgres",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
        ]
        made += ["--encoding=UTF8", "--no-locale", "--wal-segsize=1", f"--pgdata={data}"]
        subprocess.run([*_as_nobody(), *made], check=True, capture_output=True, cwd="/")
        (data / "pg_hba.conf").write_text(f"local all {UNPRIVILEGED} peer\nlocal all all scram-sha-256\n")
        options = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off"}
        options |= {"shared_buffers": "16MB", "max_connections": "20", "autovacuum": "off", **more}
        command = [
            str(programs / "postgres"),
            "-D",
            str(data),
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        host = f"--host={folder}"
        process = _started(command, folder / "log", lambda: _succeeds("pg_isready", "--quiet", host))

        def sql(*statements: str, database: str = "postgres") -> list[str]:
            words = ["psql", host, "--username=postgres", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only"]
            words += ["--set=ON_ERROR_STOP=1", "--field-separator=\t", f"--dbname=dbname='{database}'"]
            return _lines([*words, *(f"--command={each}" for each in statements)], PGPASSWORD=PASSWORD)

        sql(f"CREATE ROLE {UNPRIVILEGED} SUPERUSER LOGIN")
        try:
            yield Server(folder, "postgres", process, sql)
        finally:
            process.send_signal(signal.SIGQUIT)  # at once, but it removes its shared memory
            process.wait()


@contextmanager
def mariadb(*more: str) -> Iterator[Server]:
    """A MariaDB server whose user `backup` needs PASSWORD, on a socket; the tests' administrator is root without.

    `more` are options of the server, by default that it listens nowhere else.
    """
    _require("mariadbd", "mariadb-install-db", "mariadb", "mariadb-dump", "mariadb-admin", "setpriv")
    with _folder() as folder:
        data, socket = folder / "data", folder / "s"
        small = ["--innodb-log-file-size=4M", "--innodb-data-file-path=ibdata1:4M:autoextend"]
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *small]
        install += ["--auth-root-authentication-method=normal"]
        subprocess.run([*_as_nobody(), *install], check=True, capture_output=True, cwd="/")
        options = [
            f"--datadir={data}",
            f"--socket={socket}",
            f"--pid-file={folder / 'pid'}",
            *(more or ("--skip-networking",)),
            *small,
        ]
        options += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=8M", "--event-scheduler=OFF"]
        access = ["--no-defaults", f"--socket={socket}", "--user=root"]
        command = [_found("mariadbd") or "", "--no-defaults", *options]
        process = _started(command, folder / "log", lambda: _succeeds("mariadb-admin", *access, "ping"))

        def sql(*statements: str, database: str = "mysql") -> list[str]:
            words = ["mariadb", *access, "--batch", "--skip-column-names", "--default-character-set=utf8mb4"]
            return _lines([*words, f"--execute={';'.join(statements)}", "--", database])

        quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        sql(
            f"CREATE USER backup@localhost IDENTIFIED BY '{quoted}'",
            "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, RELOAD, PROCESS ON *.* TO backup@localhost",
        )
        try:
            yield Server(socket, "backup", process, sql)
        finally:
            process.kill()
            process.wait()


def _mysqld() -> str:
    """MySQL's own: MariaDB has a program of that name too."""
    found = shutil.which("mysqld")
    said = subprocess.run([found, "--version"], capture_output=True, check=True, text=True).stdout if found else ""
    version = re.search(r"Ver (\d+)\.(\d+)\.(\d+)", said)
    if found is None or version is None or "MariaDB" in said or tuple(map(int, version.groups())) < (8, 0, 14):
        pytest.skip("mysqld of MySQL 8.0.14 or newer not installed")
    return found


@contextmanager
def mysql(*more: str) -> Iterator[Server]:
    """A MySQL server on a socket; the tests' administrator is root without a password. `more` are its options.

    Debian has none but in unstable: it is for whoever has one in PATH.
    """
    program = _mysqld()
    with _folder() as folder:
        socket = folder / "s"
        common = [program, "--no-defaults", f"--datadir={folder / 'data'}", "--secure-file-priv=NULL"]
        made = [*_as_nobody(), *common, "--initialize-insecure"]
        subprocess.run(made, check=True, capture_output=True, cwd="/")

        def sql(*statements: str, database: str = "mysql") -> list[str]:
            access = {"unix_socket": str(socket), "user": "root", "database": database, "autocommit": True}
            with pymysql.connect(**access) as connection, connection.cursor() as cursor:
                for each in statements:
                    cursor.execute(each)
                return ["\t".join(map(str, row)) for row in cursor.fetchall()]

        def is_ready() -> bool:
            try:
                return socket.exists() and bool(sql("SELECT 1"))
            except pymysql.err.OperationalError:
                return False

        options = [f"--socket={socket}", "--mysqlx=0", "--skip-networking", *more]
        process = _started([*common, *options], folder / "log", is_ready)
        try:
            yield Server(socket, "root", process, sql)
        finally:
            process.kill()
            process.wait()
