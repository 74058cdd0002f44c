"""Places at servers as people type them, and what the config says of them.

    sftp://USER@HOST:PORT/PATH       /~/PATH begins in the folder that the account logs in to
    webdavs://HOST/PATH              webdav:// is the same without TLS
    az://ACCOUNT/CONTAINER/PREFIX    Azure Blob Storage
    gs://BUCKET/PREFIX               Google Cloud Storage

Further keys of the config's entry follow as options: `?identity_file=/root/.ssh/backup&known_hosts=/etc/opskit/hosts`.
A password stands there as a reference only, as in the config; an address that holds one is refused, and not repeated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from opskit.config.entry import NOTHING, Entry
from opskit.config.model import Destination
from opskit.config.remote import (
    AzureContainer,
    AzureDestination,
    GcsBucket,
    GcsDestination,
    SftpDestination,
    SftpServer,
    WebdavDestination,
    WebdavServer,
)
from opskit.config.terms import MEANINGS, Between, Matches, without_account
from opskit.errors import UnresolvedReference, UsageError
from opskit.secrets.reference import Reference

Given = dict[str, Any]

_FORMS: dict[str, tuple[type[Entry], str]] = {
    "sftp": (SftpServer, "sftp://USER@HOST:PORT/PATH"),
    "webdav": (WebdavServer, "webdav://HOST/PATH"),
    "webdavs": (WebdavServer, "webdavs://HOST/PATH"),
    "az": (AzureContainer, "az://ACCOUNT/CONTAINER/PREFIX"),
    "gs": (GcsBucket, "gs://BUCKET/PREFIX"),
}
_KINDS: dict[type[Entry], type[Any]] = {
    SftpServer: SftpDestination,
    WebdavServer: WebdavDestination,
    AzureContainer: AzureDestination,
    GcsBucket: GcsDestination,
}
SCHEMES = tuple(_FORMS)


def is_server(location: str) -> bool:
    """Whether a location begins with one of the schemes."""
    return location.partition("://")[0] in _FORMS and "://" in location


def given_at(option: str, location: str) -> tuple[str, Given]:
    """The kind of destination, and the keys of its entry as the config will show them; raises UsageError."""
    scheme = location.partition("://")[0]
    entry, form = _FORMS[scheme]
    try:
        split = urlsplit(location)
        port = split.port
    except ValueError:
        raise UsageError(f"{option}: expected {form}, got an address with a port that is none") from None
    if split.password is not None:
        raise UsageError(
            f"{option}: expected {form}, got an address with a password in it",
            hint="addresses are shown and logged: give it by reference, ?password=file:///etc/opskit/password",
        )
    if split.fragment:
        raise UsageError(f"{option}: expected {form}, got {without_account(location)!r}: '#' has no meaning there")
    more = dict(parse_qsl(split.query, keep_blank_values=True))
    parts = _parts(scheme, split, port)
    doubled = more.keys() & parts.keys()
    if doubled:
        raise UsageError(f"{option}: {min(doubled)} stands in the address and behind it: expected it once")
    given = {name: _judged(option, entry, name, text) for name, text in (parts | more).items()}
    for name, declared in entry.known_keys().items():
        if declared.value() is NOTHING and name not in given:
            raise UsageError(f"{option}: expected {form}, got no {name}")
    return str(_KINDS[entry].kind), given


def destination_at(option: str, location: str) -> Destination:
    """The destination at that place, all but its place by default; raises UsageError."""
    kind, given = given_at(option, location)
    entry = next(each for each in _KINDS if _KINDS[each].kind == kind)
    hints = get_type_hints(entry)
    built = {name: _built(hints[name], value) for name, value in given.items()}
    found: Destination = _KINDS[entry](**{kind: entry(**built)})
    return found


def is_same(there: Destination, option: str, location: str) -> bool:
    """Whether a destination of the config is at that place, however it is logged in to; raises UsageError."""
    typed = destination_at(option, location)
    return type(typed) is type(there) and place_of(typed) == place_of(there)


def place_of(destination: Destination) -> tuple[object, ...]:
    """What two destinations of one kind have in common if they are one place."""
    entry = entry_of(destination)
    keys = ("host", "port", "path", "url", "account", "container", "bucket", "prefix", "address")
    return tuple(str(value).rstrip("/") if (value := getattr(entry, name, None)) is not None else "" for name in keys)


def entry_of(destination: Destination) -> Entry:
    """What a destination says of its place."""
    found: Entry = getattr(destination, destination.kind)
    return found


def _parts(scheme: str, split: SplitResult, port: int | None) -> Given:
    """What the address itself says, by key of the entry, as text."""
    user = unquote(split.username) if split.username else None
    path = unquote(split.path)
    if scheme == "sftp":
        found = {"host": split.hostname, "port": port, "user": user, "path": path.removeprefix("/~/")}
    elif scheme == "az":
        container, _, prefix = path.strip("/").partition("/")
        found = {"account": split.hostname, "container": container, "prefix": prefix, "user": user, "port": port}
    elif scheme == "gs":
        found = {"bucket": split.hostname, "prefix": path.strip("/"), "user": user, "port": port}
    else:
        server = split.netloc.rpartition("@")[2]
        found = {"url": f"{'https' if scheme == 'webdavs' else 'http'}://{server}{split.path}", "user": user}
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def _judged(option: str, entry: type[Entry], name: str, text: str) -> Any:
    """The value of a key as the config shows it; raises UsageError."""
    hints = get_type_hints(entry, include_extras=True)
    if name not in hints or name not in entry.known_keys():
        raise UsageError(f"{option}: unknown option {name!r}, expected one of {', '.join(entry.known_keys())}")
    marks = list(_marks(hints[name]))
    if Reference in marks:
        try:
            Reference.parse(text)
        except UnresolvedReference as error:  # which does not repeat what may be the secret itself
            raise UsageError(f"{option}: {name}: {error}") from None
        return text
    if Path in marks:
        return os.path.abspath(os.path.expanduser(text))
    for mark in marks:
        if isinstance(mark, Matches) and not re.fullmatch(mark.pattern, text):
            raise UsageError(f"{option}: {name}: expected {MEANINGS[mark.pattern]}, got {without_account(text)!r}")
        if isinstance(mark, Between):
            if not text.isdecimal() or not mark.least <= int(text) <= mark.most:
                raise UsageError(f"{option}: {name}: expected {mark.least} to {mark.most}, got {text!r}")
            return int(text)
    return text


def _marks(hint: Any) -> Iterator[Any]:
    """All types and marks in a type."""
    yield hint
    for each in get_args(hint):
        yield from _marks(each)


def _built(hint: Any, value: Any) -> Any:
    marks = list(_marks(hint))
    if Reference in marks:
        return Reference.parse(value)
    return Path(value) if Path in marks else value
