"""PostgreSQL: one user whose password is replaced, or two users that take turns.

Importing it does not load psycopg: that is an extra, and loaded when the server is asked.
"""

from __future__ import annotations

from opskit.secrets.rotation.targets.postgresql.alternating import AlternatingUsers, PostgresqlAlternating
from opskit.secrets.rotation.targets.postgresql.server import Admin, Server
from opskit.secrets.rotation.targets.postgresql.single import PostgresqlUser, SingleUser

__all__ = ["Admin", "AlternatingUsers", "PostgresqlAlternating", "PostgresqlUser", "Server", "SingleUser"]
