"""What the config says of a database becomes its source; wiring hands in the clock, the environment and the secrets.

A part of wiring of its own, loaded only on hosts that back up databases. It judges nothing: the config was judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from opskit import log
from opskit.config.model import MariadbServer, MariadbSource, PostgresqlServer, PostgresqlSource, SqliteSource
from opskit.errors import UsageError
from opskit.secrets.reference import Reference
from opskit.sources.base import Source
from opskit.sources.databases.dumps import DumpSource, Loader, Programs, Surroundings
from opskit.sources.databases.mariadb import Mariadb
from opskit.sources.databases.postgresql import Postgresql
from opskit.sources.databases.scratch import ScratchDatabase
from opskit.sources.databases.sqlite import SqliteSource as SqliteFiles
from opskit.sources.databases.throwaway import ThrowawayServers
from opskit.sources.loading import Loader as DumpLoader

Database = PostgresqlSource | MariadbSource | SqliteSource
COPIES = "sqlite"
"""The folder for copies of SQLite's files, below the state folder."""

_log = log.logger(__name__)


def source(
    found: Database, state: Path, now_ns: int, environ: Mapping[str, str], reveal: Callable[[Reference], bytes]
) -> Source:
    """The source behind an entry of the config; `reveal` resolves a reference when a program starts."""
    if isinstance(found, SqliteSource):
        return SqliteFiles(found.sqlite, state / COPIES)
    return DumpSource(_programs(found, now_ns, environ, reveal))


def scratch(
    found: object, database: str, environ: Mapping[str, str], reveal: Callable[[Reference], bytes]
) -> ScratchDatabase:
    """A new database of that name on the server of an entry of the config; raises UsageError where that has none."""
    if not isinstance(found, PostgresqlSource | MariadbSource):
        raise UsageError(
            "no server to load into: expected a snapshot of a source that has postgresql or mariadb in the config",
            hint="pipe the dump into the server's own program: --stdout",
        )
    return ScratchDatabase(_programs(found, 0, environ, reveal), database)


def throwaway(path: str) -> DumpLoader:
    """What makes a server for dumps that are looked at in a drill."""
    return ThrowawayServers(path, log.redact)


def _programs(
    found: PostgresqlSource | MariadbSource,
    now_ns: int,
    environ: Mapping[str, str],
    reveal: Callable[[Reference], bytes],
) -> Programs:
    server = found.postgresql if isinstance(found, PostgresqlSource) else found.mariadb
    password = None if server.password is None else partial(reveal, server.password)
    surroundings = Surroundings(now_ns, environ, password, log.redact, _warn)
    run_as = server.run_as if isinstance(server, PostgresqlServer) else None
    return Programs(client_of(server), surroundings, run_as=run_as)


def programs(found: PostgresqlSource | MariadbSource) -> list[str]:
    """The programs that dump a server, the one that does most of it first."""
    asks, *dump = client_of(found.postgresql if isinstance(found, PostgresqlSource) else found.mariadb).programs()
    return [*dump, asks]


def client_of(server: PostgresqlServer | MariadbServer) -> Loader:
    """What a server of the config is to its source."""
    if isinstance(server, PostgresqlServer):
        return Postgresql(
            server.databases, server.host, server.port, server.user, server.sslmode, _text(server.sslrootcert),
            server.globals, server.maintenance_database,
        )  # fmt: skip
    return Mariadb(
        server.databases, server.host, server.port, _text(server.socket), server.user, _text(server.ssl_ca),
        server.client, server.globals, server.extended_insert,
    )  # fmt: skip


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _warn(text: str) -> None:
    _log.warning("database warning", text=text)
