"""What single fields of `rotations` cannot show: entries that contradict themselves or one another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from opskit.config.model import Config
from opskit.config.rotating import (
    CommandRotation,
    Consumer,
    Items,
    MariadbRotation,
    PostgresqlRotation,
    RedisRotation,
    Rotation,
    TlsRotation,
)
from opskit.config.syntax import Location
from opskit.secrets import placeholders

WRITABLE = ("gpg", "vault", "aws-sm", "dotenv", "keyring")
"""Schemes of stores that take values."""
_KNOWN = {"item", "old", "new", "old_address", "new_address"}
_TURNS = 2
_ENDPOINT = re.compile(r"[^/]+:[0-9]{1,5}")


def rotation_contradictions(config: Config) -> Iterator[tuple[Location, str]]:
    """(field, "what, expected X")."""
    owners: dict[str, str] = {}
    for name, entry in config.rotations.items():
        place: Location = ("rotations", name)
        secret = str(entry.secret)
        if secret in owners:
            yield (*place, "secret"), f"is rotated by '{owners[secret]}' already, expected one rotation for each secret"
        owners.setdefault(secret, name)
        if config.keys.passphrase is not None and str(config.keys.passphrase) == secret:
            yield (*place, "secret"), "opens earlier backups, expected one whose old value may go; see keys.passphrase"
        yield from _of_secret(place, entry)
        for consumer, found in entry.consumers.items():
            yield from _of_consumer((*place, "consumers", consumer), found, secret)
        if entry.items is not None:
            yield from _of_items((*place, "items"), entry.items)
        yield from _of_target(place, entry)


def _of_secret(place: Location, entry: Rotation) -> Iterator[tuple[Location, str]]:
    if entry.secret.scheme not in WRITABLE:
        expected = ", ".join(f"{each}:" for each in WRITABLE)
        yield (*place, "secret"), f"is only read by opskit, expected a store that takes values: {expected}"
    if entry.secret.option("stage") or entry.secret.option("version"):
        yield (*place, "secret"), "names one value, expected a reference without ?stage= and ?version="


def _of_consumer(place: Location, consumer: Consumer, secret: str) -> Iterator[tuple[Location, str]]:
    for path in consumer.files:
        if not path.startswith("/"):
            yield (*place, "files", path), "is no absolute path, expected one that begins with '/'"
    for number, reference in enumerate(consumer.secrets):
        if str(reference) == secret:
            yield (*place, "secrets", number), "is the secret itself, expected other places that get its value"
        elif reference.scheme not in WRITABLE:
            yield (*place, "secrets", number), "is only read by opskit, expected a store that takes values"


def _of_items(place: Location, items: Items) -> Iterator[tuple[Location, str]]:
    for name in ("move", "verify"):
        argv: Sequence[str] = getattr(items, name)
        if "item" not in placeholders.names(argv[1:]):
            yield (*place, name), "does not name the item, expected an argument that holds {item}"
    for name in ("list", "move", "verify"):
        asked = placeholders.names(getattr(items, name))
        if unknown := sorted(asked - _KNOWN):
            known, doubled = ", ".join(sorted(_KNOWN)), f"{{{{{unknown[0]}}}}}"
            yield (
                (*place, name),
                f"asks for {{{unknown[0]}}}, expected one of {known}; {doubled} is that word in braces",
            )
        if asked & {"old_address", "new_address"} and items.address is None:
            yield (*place, name), "asks for an address, expected the key address beside it"


def _of_target(place: Location, entry: Rotation) -> Iterator[tuple[Location, str]]:
    match entry:
        case CommandRotation(command=there) if there.keeps_old and there.disable is None and there.delete is None:
            yield (*place, "command", "keeps_old"), "keeps the old value for ever, expected disable or delete beside it"
        case PostgresqlRotation(postgresql=there):
            yield from _of_users((*place, "postgresql"), there.users, there.admin)
            if there.admin_password is not None and there.admin is None:
                yield (*place, "postgresql", "admin_password"), "stands alone, expected admin beside it"
        case MariadbRotation(mariadb=there):
            if len({*there.users, there.admin}) != len(there.users) + 1 or len(there.users) != _TURNS:
                yield (*place, "mariadb", "users"), "expected two accounts, and an admin who is neither"
        case RedisRotation(redis=there):
            for number, node in enumerate(there.nodes):
                if not node.startswith("/") and not _ENDPOINT.fullmatch(node):
                    yield (*place, "redis", "nodes", number), "is no node, expected HOST:PORT or the path of a socket"
        case TlsRotation(tls=there):
            for number, endpoint in enumerate(there.endpoints):
                if not _ENDPOINT.fullmatch(endpoint):
                    yield (*place, "tls", "endpoints", number), "is no endpoint, expected HOST:PORT"
        case _:
            return


def _of_users(place: Location, users: Sequence[str], admin: str | None) -> Iterator[tuple[Location, str]]:
    if len(users) > _TURNS or len({*users, admin}) <= len(users):
        yield (*place, "users"), "expected one user or two, and an administrator who is none of them"
