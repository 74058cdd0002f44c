"""The part of wiring that knows rotation targets: the config's entry becomes the one that it names.

What a kind needs (a driver of a database) is loaded when one of it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opskit.config.rotating import (
    BackupKeyRotation,
    CommandRotation,
    IamRotation,
    MariadbRotation,
    MariadbUsers,
    MysqlRotation,
    MysqlUser,
    PostgresqlPlace,
    PostgresqlRotation,
    RedisRotation,
    Rotation,
    SqlPlace,
    SshRotation,
    TlsRotation,
)
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.commands import Programs

if TYPE_CHECKING:
    from opskit.secrets.rotation.base import RotationTarget
    from opskit.secrets.rotation.targets.mysql.server import Access, Place
    from opskit.secrets.rotation.targets.postgresql import Server

Resolve = Callable[[Reference], Secret]


@dataclass(frozen=True)
class Means:
    """What targets are given: programs and how they are run, and what references stand for, asked for when needed."""

    programs: Programs
    resolve: Resolve
    now: Callable[[], float]
    """Epoch seconds."""
    config_file: Path

    def later(self, reference: Reference | None) -> Callable[[], Secret] | None:
        """Resolves a reference each time that it is called."""
        return None if reference is None else lambda: self.resolve(reference)


def target_of(entry: Rotation, means: Means) -> RotationTarget:
    """The target of an entry."""
    return _MAKERS[entry.kind](entry, means)


def _command(entry: Rotation, means: Means) -> RotationTarget:
    from opskit.secrets.rotation.targets.command import Commands, CommandTarget

    assert isinstance(entry, CommandRotation)
    given = entry.command
    commands = Commands(
        given.apply, given.check, given.create, given.disable, given.delete, given.keeps_old,
        given.timeout.total_seconds(),
    )  # fmt: skip
    return CommandTarget(commands, means.programs)


def _postgresql(entry: Rotation, means: Means) -> RotationTarget:
    from opskit.secrets.rotation.targets import postgresql

    assert isinstance(entry, PostgresqlRotation)
    given = entry.postgresql
    admin = None if given.admin is None else postgresql.Admin(given.admin, means.later(given.admin_password))
    pooler = None if given.users_connect_to is None else _server(given.users_connect_to)
    server, users = _server(given), given.users
    if len(users) == 1:
        return postgresql.PostgresqlUser(
            postgresql.SingleUser(server=server, admin=admin, users_connect_to=pooler, query=given.query, user=users[0])
        )
    return postgresql.PostgresqlAlternating(
        postgresql.AlternatingUsers(
            server=server, admin=admin, users_connect_to=pooler, query=given.query, users=(users[0], users[1]),
            owner=given.owner, terminate=given.terminate,
        )
    )  # fmt: skip


def _server(place: PostgresqlPlace) -> Server:
    from opskit.secrets.rotation.targets.postgresql import Server

    return Server(place.host, place.port, place.database, place.sslmode, _text(place.sslrootcert))


def _mariadb(entry: Rotation, means: Means) -> RotationTarget:
    from opskit.secrets.rotation.targets.mysql.alternating import AlternatingUsers, AlternatingUsersSettings

    assert isinstance(entry, MariadbRotation)
    given = entry.mariadb
    users = (given.users[0], given.users[1])
    return AlternatingUsers(AlternatingUsersSettings(_sql_access(given, means), users, _entrance(given)))


def _mysql(entry: Rotation, means: Means) -> RotationTarget:
    from opskit.secrets.rotation.targets.mysql.dual import DualPasswords, DualPasswordsSettings

    assert isinstance(entry, MysqlRotation)
    given = entry.mysql
    return DualPasswords(DualPasswordsSettings(_sql_access(given, means), given.user, _entrance(given)))


def _sql_access(given: MariadbUsers | MysqlUser, means: Means) -> Access:
    from opskit.secrets.rotation.targets.mysql.server import Access

    return Access(_sql_place(given), given.admin, means.later(given.admin_password))


def _entrance(given: MariadbUsers | MysqlUser) -> Place | None:
    return None if given.users_connect_to is None else _sql_place(given.users_connect_to)


def _sql_place(given: SqlPlace) -> Place:
    from opskit.secrets.rotation.targets.mysql.server import Place

    return Place(given.host, given.port, _text(given.socket), given.tls, _text(given.ca_file))


def _redis(entry: Rotation, means: Means) -> RotationTarget:
    from opskit.secrets.rotation.targets.redis_acl import Node, RedisUser, RedisUserSettings

    assert isinstance(entry, RedisRotation)
    given = entry.redis
    nodes = []
    for each in given.nodes:
        host, _, port = each.rpartition(":")
        is_socket = each.startswith("/")
        nodes.append(
            Node(socket=each) if is_socket else Node(host or each, int(port), None, given.tls, _text(given.ca_file))
        )
    admin = means.later(given.admin_password)
    return RedisUser(RedisUserSettings(tuple(nodes), given.user, given.admin, admin, given.may_forget))


def _aws_iam(entry: Rotation, means: Means) -> RotationTarget:
    from opskit.secrets.rotation.targets.iam import IamSettings, iam_keys

    assert isinstance(entry, IamRotation)
    given = entry.aws_iam
    return iam_keys(IamSettings(given.user, given.region, given.profile, means.later(given.admin), given.self_managed))


def _ssh(entry: Rotation, means: Means) -> RotationTarget:
    from opskit.secrets.rotation.targets.ssh import SshKeys, SshSettings

    assert isinstance(entry, SshRotation)
    given = entry.ssh
    return SshKeys(
        SshSettings(
            given.authorized_keys, given.user, given.host, given.port, given.known_hosts, given.command,
            given.statuses, given.comment, given.options,
        ),
        means.programs,
    )  # fmt: skip


def _tls(entry: Rotation, means: Means) -> RotationTarget:
    from opskit.secrets.rotation.targets.tls import Endpoint, TlsKeys, TlsSettings

    assert isinstance(entry, TlsRotation)
    given = entry.tls
    endpoints = []
    for each in given.endpoints:
        host, _, port = each.rpartition(":")
        endpoints.append(Endpoint(host, int(port), given.server_name or given.names[0]))
    settings = TlsSettings(
        given.folder, given.names, given.ca, given.reload, tuple(endpoints), given.subject,
        given.valid_for.total_seconds() / 86400, given.ca_timeout.total_seconds(),
    )  # fmt: skip
    return TlsKeys(settings, means.programs, means.now)


def _backup_key(entry: Rotation, means: Means) -> RotationTarget:
    from opskit.setup.backup_key.target import BackupKey, BackupKeySettings

    assert isinstance(entry, BackupKeyRotation)
    given = entry.backup_key
    return BackupKey(BackupKeySettings(means.config_file, given.user_id, given.gone))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


_MAKERS: Mapping[str, Callable[[Rotation, Means], RotationTarget]] = {
    "aws_iam": _aws_iam,
    "backup_key": _backup_key,
    "command": _command,
    "mariadb": _mariadb,
    "mysql": _mysql,
    "postgresql": _postgresql,
    "redis": _redis,
    "ssh": _ssh,
    "tls": _tls,
}
