"""Places as people type them, and what the config says of them: folders and `s3://BUCKET/PREFIX?OPTION=…&OPTION=…`.

Options of a bucket are endpoint, region and owner. Places at other servers (`sftp://` …) are read by `servers`. It
deliberately looks at no place: whether something is there shows when it is used.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from opskit import servers
from opskit.config.model import Destination, LocalDestination, S3Bucket, S3Destination
from opskit.config.terms import (
    ACCOUNT_PATTERN,
    BUCKET_PATTERN,
    ENDPOINT_PATTERN,
    MEANINGS,
    PREFIX_PATTERN,
    REGION_PATTERN,
    without_account,
)
from opskit.errors import UsageError

_PATTERNS = {
    "bucket": BUCKET_PATTERN,
    "prefix": PREFIX_PATTERN,
    "endpoint": ENDPOINT_PATTERN,
    "region": REGION_PATTERN,
    "owner": ACCOUNT_PATTERN,
}


def expanded(option: str, text: str) -> Path:
    """A path from the command line or an answer, absolute, `~` expanded; raises UsageError naming `option`."""
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise UsageError(f"{option}: expected a path, got {text!r}: no such user", hint="write ./~… for such a name")
    return Path(path).absolute()


def place(option: str, text: str) -> Path:
    """The same of a path that the config will hold, which is UTF-8."""
    path = expanded(option, text)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{option}: expected a path in UTF-8, for the config is UTF-8; got {str(path)!a}",
            hint="name the folder above it, or rename it; names below it may be of any bytes",
        ) from None
    return path


def located(option: str, text: str) -> str:
    """A location from the command line: a bucket's as it is, a folder's absolute, `~` expanded; raises UsageError."""
    return text if is_bucket(text) else str(expanded(option, text))


def is_bucket(location: str) -> bool:
    """Whether a location is meant for a bucket, or another service, and not for a folder."""
    return "://" in location


def bucket_at(option: str, location: str) -> S3Bucket:
    """The place that a location of a bucket names; raises UsageError naming `option`."""
    split = urlsplit(location)
    if "@" in split.netloc:
        raise UsageError(f"{option}: expected s3://BUCKET/PREFIX, got an address with an account in it")
    options = dict(parse_qsl(split.query, keep_blank_values=True))
    given = {**options, "bucket": split.netloc, "prefix": split.path.strip("/")}
    if split.scheme != "s3" or split.fragment or not given.keys() <= _PATTERNS.keys():
        raise UsageError(
            f"{option}: expected a folder or s3://BUCKET/PREFIX, got {without_account(location)!r}",
            hint="a service other than AWS: s3://BUCKET/PREFIX?endpoint=https://s3.example.org; other kinds: "
            + ", ".join(f"{each}://" for each in servers.SCHEMES),
        )
    for name, value in given.items():
        if (value or name != "prefix") and not re.fullmatch(_PATTERNS[name], value):
            raise UsageError(f"{option}: {name}: expected {MEANINGS[_PATTERNS[name]]}, got {without_account(value)!r}")
    return S3Bucket(
        bucket=given["bucket"],
        prefix=given["prefix"] or None,
        endpoint=options.get("endpoint"),
        region=options.get("region"),
        owner=options.get("owner"),
    )


def destination_at(option: str, text: str) -> dict[str, Any]:
    """What the config will say of a new destination at that place; raises UsageError."""
    if not is_bucket(text):
        return {"path": str(place(option, text))}
    if servers.is_server(text):
        kind, entry = servers.given_at(option, text)
        # Azure and Google are elsewhere, as AWS is; where another endpoint stands, its owner knows.
        is_far = kind in ("azure", "gcs") and "endpoint" not in entry
        return {kind: entry, "offsite": True} if is_far else {kind: entry}
    found = bucket_at(option, text)
    given = {name: value for name in _PATTERNS if (value := getattr(found, name))}
    # The same of AWS.
    return {"s3": given, "offsite": True} if found.endpoint is None else {"s3": given}


def is_same_place(there: Destination, option: str, text: str) -> bool:
    """Whether what the config says of a destination and what was typed are one place; raises UsageError."""
    if isinstance(there, LocalDestination):
        return not is_bucket(text) and there.path == Path(os.path.normpath(place(option, text)))
    if not is_bucket(text):
        return False
    if servers.is_server(text) or not isinstance(there, S3Destination):
        return servers.is_server(text) and not isinstance(there, S3Destination) and servers.is_same(there, option, text)
    found = bucket_at(option, text)
    return (found.bucket, found.prefix, found.endpoint) == (there.s3.bucket, there.s3.prefix, there.s3.endpoint)
