"""How PostgreSQL is dumped: `pg_dump` for each database, `pg_dumpall` for what belongs to none.

The dumps are plain SQL, not compressed, so that what has not changed is stored once; each is consistent in itself, as
pg_dump sees to it. `databases/NAME.sql` loads into a database of any name; `create/NAME.sql` makes the original one
with its owner, encoding, settings and grants, which pg_dump leaves out otherwise; `globals.sql` has roles and
tablespaces.

Since its releases of August 2025, pg_dump writes a random key into each dump, which protects who loads it from a server
that somebody took over. It is left as it is: the first and the last chunk of each dump are stored anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from opskit.errors import SourceError
from opskit.sources.databases.dumps import Ask, Dump, Scratch, chosen, file_name

Globals = Literal["full", "without-passwords", "none"]

_PATIENCE = {"connect_timeout": "60", "keepalives_idle": "60", "keepalives_interval": "20", "keepalives_count": "6"}
"""Seconds: a server that is not there any more is noticed after three minutes, not after the system's two hours."""

_ALL = (
    "SELECT datname FROM pg_catalog.pg_database"
    # -2: what an interrupted DROP DATABASE left, which nobody can connect to.
    " WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname"
)


class Postgresql(NamedTuple):
    """A PostgreSQL server and what of it is dumped; implements Client. What is None is libpq's default."""

    databases: Sequence[str] = ()
    """Empty: all but templates."""
    host: str | None = None
    """A name, an address, or the folder of a socket."""
    port: int | None = None
    user: str | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None
    globals: Globals = "full"
    maintenance_database: str = "postgres"
    """Which database is connected to, to ask for the others."""

    def programs(self) -> Mapping[str, str]:
        """psql asks, the others dump."""
        called = ("psql", "pg_dump", *(["pg_dumpall"] if self.globals != "none" else []))
        return dict.fromkeys(called, "postgresql-client")

    def dumps(self, ask: Ask, tell: Callable[[str], None]) -> list[Dump]:
        """Two for each database, and the globals."""
        question = ("--no-psqlrc", "--no-align", "--tuples-only", "--record-separator-zero", f"--command={_ALL}")
        answer = ask([*self._program("psql", self.maintenance_database, "client_encoding=UTF8"), *question])
        there = [name.decode("utf-8", "surrogateescape") for name in answer.split(b"\0") if name]
        found = list[Dump]()
        for name in chosen(self.databases, there, "postgresql"):
            found += self._dumps_of(name)
            if "\n" in name or "\r" in name:  # pg_dump refuses to write the commands that would make it
                found.pop()
                tell(f"database {name!r} has a line end in its name: how it was made is not dumped")
        if self.globals != "none":
            found.append(Dump(b"globals.sql", self._globals()))
        return found

    def credentials(self, password: bytes) -> bytes:
        """A password file (PostgreSQL, "The Password File"): one line, good for every server that is asked."""
        if b"\n" in password or b"\r" in password or b"\0" in password or not password:
            raise SourceError("the password for postgresql: expected one line of text, got none or several")
        return b"*:*:*:*:" + password.replace(b"\\", b"\\\\").replace(b":", b"\\:") + b"\n"

    def admit(self, argv: Sequence[str], env: dict[str, str], credentials: str | None) -> list[str]:
        """Password and files of the environment would come before the one that the config names."""
        env.pop("PGCLIENTENCODING", None)  # a dump is in the encoding of its database
        if credentials is not None:
            env.pop("PGPASSWORD", None)
            env["PGPASSFILE"] = credentials
        return list(argv)

    def scratch(self, database: str) -> Scratch:
        """An empty database without what template1 may hold here. The first error ends the loading."""
        quoted = '"' + database.replace('"', '""') + '"'
        asked = (*self._program("psql", self.maintenance_database), "--no-psqlrc", "--quiet")
        load = (
            *self._program("psql", database),
            "--no-psqlrc",
            "--quiet",
            "--output=/dev/null",
            "--set=ON_ERROR_STOP=1",
        )
        make = f"--command=CREATE DATABASE {quoted} TEMPLATE template0"
        drop = f"--command=DROP DATABASE {quoted} WITH (FORCE)"  # the session of a killed psql lives on for a moment
        return Scratch((*asked, make), load, (*asked, drop))

    def _dumps_of(self, name: str) -> list[Dump]:
        dump = self._program("pg_dump", name)
        # The sections after pre-data, and all that is in a schema, are in the dump proper.
        create = ("--create", "--section=pre-data", "--exclude-schema=*")
        return [
            Dump(b"databases/" + file_name(name), (*dump, "--format=plain")),
            Dump(b"create/" + file_name(name), (*dump, *create)),
        ]

    def _globals(self) -> tuple[str, ...]:
        secrecy = ("--no-role-passwords",) if self.globals == "without-passwords" else ()
        return (*self._program("pg_dumpall", self.maintenance_database), "--globals-only", *secrecy)

    def _program(self, name: str, database: str, *more: str) -> tuple[str, ...]:
        """A program with the options that say where it connects. The name of a database is quoted: bare, one that
        holds "=" or begins with "postgresql://" would be taken for a whole connection string."""
        where = {"sslmode": self.sslmode, "sslrootcert": self.sslrootcert, **_PATIENCE}
        words = [
            f"dbname='{_quoted(database)}'",
            *(f"{key}='{_quoted(value)}'" for key, value in where.items() if value),
            *more,
        ]
        options = {"host": self.host, "port": self.port, "username": self.user}
        given = [f"--{key}={value}" for key, value in options.items() if value is not None]
        return (name, *given, "--no-password", f"--dbname={' '.join(words)}")


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
