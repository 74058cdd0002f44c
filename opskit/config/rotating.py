"""The part of the schema that says how secrets get new values: what accepts them, who uses them, what moves with them.

Another kind of target is one class (with its `kind`, the key that announces it) and one member of the union below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from opskit.config.entry import Entry, key
from opskit.config.terms import (
    ACCOUNT_NAME_PATTERN,
    DATABASE_PATTERN,
    LABEL_PATTERN,
    SERVER_PATTERN,
    VARIABLE_PATTERN,
    Between,
    Duration,
    Matches,
    Rule,
)
from opskit.secrets.reference import Reference

_Argv = Annotated[tuple[str, ...], Rule.PROGRAM]
_Label = Annotated[str, Matches(LABEL_PATTERN)]
_Text = Annotated[str, Rule.NOT_EMPTY]
_Port = Annotated[int, Between(1, 65535)]
_Database = Annotated[str, Matches(DATABASE_PATTERN)]
_User = Annotated[str, Matches(ACCOUNT_NAME_PATTERN)]
_Server = Annotated[str, Matches(SERVER_PATTERN)]
_Variable = Annotated[str, Matches(VARIABLE_PATTERN)]


class Consumer(Entry):
    """Something that uses the secret: where it reads it, how it is made to read it again, what proves that it works."""

    files: dict[_Text, _Text] = key(
        "files to write, by absolute path: their text, with {value}, or {username} and so on; {password:url} for URLs",
        default_factory=dict,
    )
    secrets: tuple[Reference, ...] = key("secrets in other stores that get the value too", default=())
    reload: _Argv | None = key("argv that makes it read them; exit 0 means that it did", default=None)
    check: _Argv | None = key("argv that proves that it works; exit 0 means that it does", default=None)
    timeout: Duration = key("how long one of these commands may run", default=Duration.parse("2m"))


class Items(Entry):
    """What is held under the old value, and moves to the new one by a command an item."""

    list: _Argv = key("argv that writes what is under the old value, one item a line")
    move: _Argv = key(
        "argv that moves {item}; the old value is on its stdin, {old} and {new} name files with the values"
    )
    verify: _Argv = key("argv that judges {item}: exit 0, it is under the new value; 1, it is not; else: nobody knows")
    address: _Argv | None = key(
        "argv that writes the address of the value on its stdin: {old_address} and {new_address}", default=None
    )
    env: Annotated[dict[_Variable, Literal["old", "new"]], Rule.VARIABLES] = key(
        "variables of these commands that hold a value, for programs that take it in no other way", default_factory=dict
    )
    parallel: Annotated[int, Between(1, 64)] = key("items that are moved at once", default=1)
    attempts: Annotated[int, Between(1, 100)] = key("how often a move is tried in one run", default=3)
    timeout: Duration = key("how long one of these commands may run", default=Duration.parse("10m"))


class _Rotation(Entry):
    secret: Reference = key("where the secret lies: a store that takes values")
    every: Duration = key("a new value is due this long after the one before", default=Duration.parse("30d"))
    grace: Duration = key("how long the old value stays accepted once all have moved", default=Duration.parse("24h"))
    observe: Duration = key("how long the old value stays switched off before it goes", default=Duration.parse("24h"))
    propagation: Duration = key("how long the target may take to accept a new value", default=Duration.parse("1m"))
    consumers: dict[_Label, Consumer] = key("who uses the secret, by name", default_factory=dict)
    items: Items | None = key("what is held under the secret and moves with it", default=None)
    may_delete: _Argv | None = key("argv that is asked before the old value goes; exit 0: it may", default=None)


class Commands(Entry):
    """Programs that do it. The value that one is about is on its stdin; {old} and {new} name files with the values."""

    apply: _Argv = key("argv that makes the target accept the value; exit 1: refused, and nothing changed")
    check: _Argv = key("argv that tries the value: exit 0, it is accepted; 1, it is refused; else: nobody knows")
    create: _Argv | None = key("argv that writes a new value; default: 40 random letters and digits", default=None)
    disable: _Argv | None = key("argv that switches the value off; apply switches it on again", default=None)
    delete: _Argv | None = key("argv that ends the value for ever", default=None)
    keeps_old: bool = key(
        "whether the old value stays accepted beside a new one until disable or delete", default=False
    )
    timeout: Duration = key("how long one of these commands may run", default=Duration.parse("2m"))


class CommandRotation(_Rotation):
    """A secret of anything that has programs for it."""

    kind: ClassVar[str] = "command"

    command: Commands = key("programs that make the target accept values, and try them")


class PostgresqlPlace(Entry):
    """Where to connect."""

    host: _Server = key("name or address of the server, or the folder of its socket")
    port: _Port = key("port of the server", default=5432)
    database: _Database = key("database that is connected to", default="postgres")
    sslmode: Literal["disable", "require", "verify-ca", "verify-full"] = key(
        "how a connection by network is protected", default="verify-full"
    )
    sslrootcert: Path | None = key("certificates that verify-ca and verify-full believe", default=None)


class PostgresqlUsers(PostgresqlPlace):
    """A server, and whose password changes there."""

    users: Annotated[tuple[_User, ...], Rule.NOT_EMPTY] = key(
        "one role, whose password is replaced; or two that take turns, so that nobody is refused meanwhile"
    )
    owner: _User | None = key("of two: the role that both become at login, which owns what they make", default=None)
    admin: _User | None = key("role that alters them; default: they alter themselves, or each other", default=None)
    admin_password: Reference | None = key(
        "reference to the password of that role; default: none is asked", default=None
    )
    query: _Text | None = key("SQL that a user must be allowed to run; it is rolled back", default=None)
    terminate: bool = key("end the sessions of the old one of two when it goes", default=False)
    users_connect_to: PostgresqlPlace | None = key(
        "where the users connect, a pooler for one; default: to the server", default=None
    )


class PostgresqlRotation(_Rotation):
    """Passwords of a PostgreSQL server. The value: a password; of two users {"username": …, "password": …}."""

    kind: ClassVar[str] = "postgresql"

    postgresql: PostgresqlUsers = key("the server, and whose password changes")


class SqlPlace(Entry):
    """Where to connect: by network, or by a socket of this machine."""

    host: _Server = key("name or address of the server", default="localhost")
    port: _Port = key("port of the server", default=3306)
    socket: Path | None = key("socket of the server, instead of a host", default=None)
    tls: bool = key("by network: encrypt, and check the server's certificate", default=True)
    ca_file: Path | None = key("authorities that may have signed it; default: those of this machine", default=None)


class _SqlAccess(SqlPlace):
    admin: _User = key("account that alters the others")
    admin_password: Reference | None = key("reference to its password; default: none is asked", default=None)
    users_connect_to: SqlPlace | None = key(
        "where those whose password changes connect, a proxy for one; default: to the server", default=None
    )


class MariadbUsers(_SqlAccess):
    """A server, and the two accounts that take turns."""

    users: Annotated[tuple[_User, ...], Rule.NOT_EMPTY] = key("two accounts of equal rights, without their hosts")


class MariadbRotation(_Rotation):
    """Two accounts of a MariaDB server. The value: {"username": …, "password": …}."""

    kind: ClassVar[str] = "mariadb"

    mariadb: MariadbUsers = key("the server, and the two accounts")


class MysqlUser(_SqlAccess):
    """A server, and the account that has two passwords for a while."""

    user: _User = key("account whose password changes, without its hosts")


class MysqlRotation(_Rotation):
    """An account of MySQL 8.0.14 or newer, which keeps an old password beside a new one. The value: the password."""

    kind: ClassVar[str] = "mysql"

    mysql: MysqlUser = key("the server, and the account")


class RedisNodes(Entry):
    """All nodes that know the user: replicas do not learn of it from others."""

    nodes: Annotated[tuple[_Server, ...], Rule.NOT_EMPTY] = key("HOST:PORT, or the path of a socket, of every node")
    user: _User = key("user whose password changes")
    admin: _User = key("user who alters it", default="default")
    admin_password: Reference | None = key(
        "reference to the password of that user; default: none is asked", default=None
    )
    tls: bool = key("by network: encrypt, and check the node's certificate", default=True)
    ca_file: Path | None = key("authorities that may have signed it; default: those of this machine", default=None)
    may_forget: bool = key("also on nodes that keep nothing over a restart", default=False)


class RedisRotation(_Rotation):
    """A user of Redis or Valkey, on all nodes. The value: the password."""

    kind: ClassVar[str] = "redis"

    redis: RedisNodes = key("the nodes, and the user")


Rotation = CommandRotation | PostgresqlRotation | MariadbRotation | MysqlRotation | RedisRotation
