"""The part of wiring that knows rotation targets: the config's entry becomes the one that it names.

What a kind needs (a driver of a database) is loaded when one of it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opskit.config.rotating import CommandRotation, PostgresqlPlace, PostgresqlRotation, Rotation
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.commands import Programs

if TYPE_CHECKING:
    from opskit.secrets.rotation.base import RotationTarget
    from opskit.secrets.rotation.targets.postgresql import Server

Resolve = Callable[[Reference], Secret]


@dataclass(frozen=True)
class Means:
    """What targets are given: programs and how they are run, and what references stand for, asked for when needed."""

    programs: Programs
    resolve: Resolve

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

    certificates = None if place.sslrootcert is None else str(place.sslrootcert)
    return Server(place.host, place.port, place.database, place.sslmode, certificates)


_MAKERS: Mapping[str, Callable[[Rotation, Means], RotationTarget]] = {
    "command": _command,
    "postgresql": _postgresql,
}
