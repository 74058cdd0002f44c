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
    HOST_PATTERN,
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
_Host = Annotated[str, Matches(HOST_PATTERN)]
_Status = Annotated[int, Between(0, 255)]
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
    """What is held under the old value, and moves to the new one by a command an item. {{ and }} are braces in argv."""

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
    grace: Duration = key(
        "how long the old value stays once all have moved: accepted, if the target keeps it",
        default=Duration.parse("24h"),
    )
    observe: Duration = key("how long the old value stays switched off before it goes", default=Duration.parse("24h"))
    propagation: Duration = key("how long the target may take to accept a new value", default=Duration.parse("30s"))
    consumers: dict[_Label, Consumer] = key("who uses the secret, by name", default_factory=dict)
    items: Items | None = key("what is held under the secret and moves with it", default=None)
    may_delete: _Argv | None = key("argv that is asked before the old value goes; exit 0: it may", default=None)


class Commands(Entry):
    """Programs that do it. The value that one is about is on its stdin; {old} and {new} name files with the values.

    {{ and }} in arguments are braces.
    """

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


class IamUser(Entry):
    """An IAM user of AWS, and who manages its access keys: by default the usual AWS chain."""

    user: _User = key("name of the IAM user, without its path")
    region: _Text | None = key(
        "whose STS is asked whether a key is accepted; default: the usual AWS chain", default=None
    )
    profile: _Text | None = key("AWS profile that manages the keys; default: the usual AWS chain", default=None)
    admin: Reference | None = key("reference to a key that manages them, instead of a profile", default=None)
    self_managed: bool = key(
        "the user's own key manages them; then nothing tells whether the old is used", default=False
    )


class IamRotation(_Rotation):
    """Access keys of an IAM user. The value: {"access_key_id": …, "secret_access_key": …}."""

    kind: ClassVar[str] = "aws_iam"

    aws_iam: IamUser = key("the IAM user, and who manages its keys")


class SshLogin(Entry):
    """A file of authorized keys on this machine, and the login that a key of it must allow."""

    authorized_keys: Path = key("the file, which must be there")
    user: _User = key("account that is logged in to")
    host: _Host = key("name by which the users of the key connect", default="localhost")
    port: _Port = key("port of sshd", default=22)
    known_hosts: Path | None = key("keys of hosts that are believed; default: the usual files", default=None)
    command: _Argv = key("what must be possible there with the key", default=("true",))
    statuses: tuple[_Status, ...] = key("exit statuses by which it shows that it works", default=(0,))
    comment: _Text = key("what stands at the end of lines that are added", default="opskit")
    options: str = key(
        'of the first key, such as from="10.0.0.0/8"; later ones take over those before them', default=""
    )


class SshRotation(_Rotation):
    """SSH keys of an account on this machine. The value: the private key, as OpenSSH writes it."""

    kind: ClassVar[str] = "ssh"

    ssh: SshLogin = key("the file of authorized keys, and the login")


class TlsServer(Entry):
    """Files of a server's key and certificate, the CA that signs it, and where the server shows it."""

    folder: Path = key("the server reads current/privkey.pem and current/fullchain.pem in it")
    names: Annotated[tuple[_Host, ...], Rule.NOT_EMPTY] = key("DNS names and addresses of the server")
    ca: _Argv = key("argv that signs: the request on stdin, certificates on stdout, the server's first")
    reload: _Argv = key("argv that has the server read its files again")
    endpoints: Annotated[tuple[_Server, ...], Rule.NOT_EMPTY] = key(
        "HOST:PORT of all that must show the new certificate"
    )
    server_name: _Host | None = key("name that is asked for there; default: the first of names", default=None)
    subject: str = key("common name that is asked for; default: none", default="")
    valid_for: Duration = key("how long a new certificate must be valid, at least", default=Duration.parse("1d"))
    ca_timeout: Duration = key("how long the CA may take", default=Duration.parse("5m"))


class TlsRotation(_Rotation):
    """Private key and certificate of a TLS server. The value: both, as PEM."""

    kind: ClassVar[str] = "tls"

    tls: TlsServer = key("the server's files, its CA, and where it shows the certificate")


class BackupKey(Entry):
    """A recipient of the backups, who gets another key."""

    user_id: _User | None = key(
        "name of the new key, such as 'Recovery <ops@example.org>'; default: that of the key before", default=None
    )
    gone: tuple[_Label, ...] = key("hosts that back up no more, and will never write for a new key", default=())


class BackupKeyRotation(_Rotation):
    """A recipient of these backups. The value: a recovery-key file, in a store that only who rotates can open."""

    kind: ClassVar[str] = "backup_key"

    backup_key: BackupKey = key("the recipient whose private key the secret is")


Rotation = (
    CommandRotation | PostgresqlRotation | MariadbRotation | MysqlRotation | RedisRotation
    | IamRotation | SshRotation | TlsRotation | BackupKeyRotation
)  # fmt: skip
