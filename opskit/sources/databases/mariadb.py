"""How MariaDB and MySQL are dumped: `mariadb-dump` (`mysqldump`) for each database in one transaction.

`databases/NAME.sql` loads into a database of any name; `create/NAME.sql` makes the original one with its character set;
`globals.sql` has users and grants, of MariaDB alone. The database `mysql` itself is never dumped: such a dump cannot be
loaded into another server, or another version.

Rows stand in a statement of their own each. Many together would load some six times as fast, but the borders of the
statements shift with each row that comes or goes, and all that follows would be stored anew: of a dump of 49 MB in
which two rows went and one came, the whole of it, instead of 3.6 MB. `extended_insert` chooses the other way.

Tables that know no transactions (MyISAM, Aria) may change while they are read; they are told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from opskit.errors import SourceError
from opskit.sources.databases.dumps import Ask, Dump, Scratch, chosen, file_name

_OF_THE_SERVER = "('information_schema', 'performance_schema', 'mysql', 'sys')"
# In hexadecimal: a name may hold line ends.
_ALL = (
    "SELECT HEX(CONVERT(schema_name USING utf8mb4)) FROM information_schema.schemata"
    f" WHERE schema_name NOT IN {_OF_THE_SERVER} ORDER BY schema_name"
)
_WITHOUT_TRANSACTIONS = (
    "SELECT DISTINCT HEX(CONVERT(table_schema USING utf8mb4)) FROM information_schema.tables"
    f" WHERE table_schema NOT IN {_OF_THE_SERVER} AND engine IN ('MyISAM', 'Aria', 'CSV', 'ARCHIVE', 'MRG_MyISAM')"
)
_PATIENCE = ("--connect-timeout=60",)
"""Seconds; mariadb-dump has no such option."""
MAX_PASSWORD = 1000
"""Bytes; lines of an option file are cut at 4096."""
_ESCAPES = {b"\\": b"\\\\", b'"': b'\\"', b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}


class Mariadb(NamedTuple):
    """A MariaDB or MySQL server and what of it is dumped; implements Client. What is None is the client's default."""

    databases: Sequence[str] = ()
    """Empty: all but the server's own."""
    host: str | None = None
    port: int | None = None
    socket: str | None = None
    user: str | None = None
    ssl_ca: str | None = None
    client: Literal["mariadb", "mysql"] = "mariadb"
    globals: bool = True
    extended_insert: bool = False

    def programs(self) -> Mapping[str, str]:
        """The first asks, the second dumps. Debian has no client of MySQL; MariaDB's answers to both names."""
        return dict.fromkeys((self.client, self._dumper), "mariadb-client")

    def dumps(self, ask: Ask, tell: Callable[[str], None]) -> list[Dump]:
        """Two for each database, and the users."""
        names = chosen(self.databases, self._listed(ask, _ALL), self.client)
        for name in set(names).intersection(self._listed(ask, _WITHOUT_TRANSACTIONS)):
            tell(f"database {name!r} has tables without transactions: what changes in them during a dump may be torn")
        found = [dump for name in names for dump in self._dumps_of(name)]
        if self.globals:
            # "ignore": users that are there already, as root is on every server, would end the loading.
            found.append(Dump(b"globals.sql", self._dump("--system=users", "--insert-ignore")))
        return found

    def credentials(self, password: bytes) -> bytes:
        """An option file with the password (MariaDB, "Configuring MariaDB with Option Files")."""
        if not 0 < len(password) <= MAX_PASSWORD or b"\0" in password:
            raise SourceError(f"the password for {self.client}: expected 1 to {MAX_PASSWORD} bytes without NUL")
        quoted = b"".join(_ESCAPES.get(byte, byte) for byte in (bytes([number]) for number in password))
        return b'[client]\npassword="' + quoted + b'"\n'

    def admit(self, argv: Sequence[str], env: dict[str, str], credentials: str | None) -> list[str]:
        """The option file comes first, or it is not read; what ~/.my.cnf says would come after it, and count."""
        if credentials is None:
            return list(argv)
        env.pop("MYSQL_PWD", None)
        env["HOME"] = "/nonexistent"
        return [argv[0], f"--defaults-extra-file={credentials}", *argv[1:]]

    def scratch(self, database: str) -> Scratch:
        """An empty database. The first error ends the loading."""
        quoted = "`" + database.replace("`", "``") + "`"
        asked = (self.client, *self._where(), "--batch")
        load = (*asked, "--default-character-set=utf8mb4", "--max-allowed-packet=1G", "--", database)
        make = f"--execute=CREATE DATABASE {quoted} CHARACTER SET utf8mb4"
        return Scratch((*asked, make), load, (*asked, f"--execute=DROP DATABASE {quoted}"))

    def _listed(self, ask: Ask, query: str) -> list[str]:
        answer = ask((self.client, *self._where(), "--batch", "--skip-column-names", *_PATIENCE, f"--execute={query}"))
        return [bytes.fromhex(line).decode("utf-8", "surrogateescape") for line in answer.decode("ascii").split()]

    def _dumps_of(self, name: str) -> list[Dump]:
        content = ["--routines", "--events", "--triggers", "--hex-blob", "--no-autocommit"]
        if not self.extended_insert:
            content.append("--skip-extended-insert")
        nothing = ("--no-data", "--no-create-info", "--skip-triggers", "--databases")
        return [
            Dump(b"create/" + file_name(name), (*self._dump(*nothing), "--", name)),
            Dump(b"databases/" + file_name(name), (*self._dump(*content), "--", name)),
        ]

    def _dump(self, *options: str) -> tuple[str, ...]:
        # --no-tablespaces: they would need the right PROCESS. The date would make equal dumps differ.
        usual = ["--single-transaction", "--quick", "--skip-dump-date", "--no-tablespaces"]
        usual += ["--default-character-set=utf8mb4", "--max-allowed-packet=1G"]
        if self.client == "mysql":
            usual.append("--loose-set-gtid-purged=OFF")  # loose: MariaDB's program of that name does not know it
        return (self._dumper, *self._where(), *usual, *options)

    @property
    def _dumper(self) -> str:
        return "mysqldump" if self.client == "mysql" else "mariadb-dump"

    def _where(self) -> list[str]:
        """Where to connect. To these programs the host "localhost" means a socket, unless they are told otherwise."""
        options = {"host": self.host, "port": self.port, "socket": self.socket, "user": self.user}
        protocol = "TCP" if self.host else "SOCKET" if self.socket else None
        options |= {"protocol": protocol, "ssl-ca": self.ssl_ca}
        given = [f"--{key}={value}" for key, value in options.items() if value is not None]
        if self.ssl_ca is not None:
            given.append("--ssl-mode=VERIFY_IDENTITY" if self.client == "mysql" else "--ssl-verify-server-cert")
        return given
