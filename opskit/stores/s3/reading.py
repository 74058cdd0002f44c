"""Reading objects and listings, and not believing an answer that cannot be right.

Invariants: a body is given out only with the length that was promised and, read whole, with the SHA-256 that its
put noted; a listing only page after page in rising order, to a last page that says it is the last.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from botocore.exceptions import ClientError

from opskit.errors import StoreError
from opskit.stores.base import ObjectInfo, check_name, check_size
from opskit.stores.s3.bucket import Answer, Bucket
from opskit.stores.s3.failures import BrokenOff, WrongBytes, status_of
from opskit.stores.s3.writing import SHA256

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_NOT_SORTED = "opskit needs a general purpose bucket, which lists in order; a directory bucket (S3 Express) does not"


def read_whole(bucket: Bucket, name: str) -> bytes:
    """All bytes of an object; raises ObjectNotFound, StoreError."""
    with bucket.translated("get_object", name):
        answer = bucket.send("get_object", Key=bucket.place.key(name))
        data = _body(bucket, name, answer)
    noted = answer.get("Metadata", {}).get(SHA256)
    if noted is not None and hashlib.sha256(data).hexdigest() != noted:
        raise WrongBytes(
            f"{bucket.place.location}: {name}: expected the bytes with SHA-256 {noted[:64]}, got others",
            hint="if it goes on the object is damaged: opskit heal replaces it from another copy",
            found=data,
        )
    return data


def read_range(bucket: Bucket, name: str, offset: int, length: int | None) -> bytes:
    """Up to `length` bytes from `offset`, both checked by the caller; raises ObjectNotFound, StoreError."""
    if length == 0:
        if bucket.look(name) is None:
            raise bucket.failures.not_found(name)
        return b""
    wanted = f"bytes={offset}-{'' if length is None else offset + length - 1}"
    with bucket.translated("get_object", name):
        try:
            answer = bucket.send("get_object", Key=bucket.place.key(name), Range=wanted)
        except ClientError as error:
            if status_of(error) == 416:
                return b""  # it begins where the object ends, or later
            raise
        data = _body(bucket, name, answer)
    found = _RANGE.fullmatch(str(answer.get("ContentRange", "")))
    first, last, size = map(int, found.groups()) if found else (-1, -1, -1)
    end = size if length is None else min(size, offset + length)
    if (first, last + 1, len(data)) != (offset, end, end - offset):
        got = answer.get("ContentRange") or "the whole object"
        raise BrokenOff(f"{bucket.place.location}: {name}: expected {wanted}, got {str(got)[:80]}")
    return data


def kept_checksum(bucket: Bucket, name: str) -> str | None:
    """The hex SHA-256 that the endpoint says it keeps of a whole object, by its own reckoning when it was put.

    None where it keeps none, or one of the checksums of parts: that says nothing of the name. opskit's own note of the
    sum in the metadata is not meant: the endpoint never held it against the bytes. Raises ObjectNotFound, StoreError.
    """
    found = bucket.look(name, ChecksumMode="ENABLED")
    if found is None:
        raise bucket.failures.not_found(name)
    if found.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        digest = base64.b64decode(found.get("ChecksumSHA256", ""), validate=True)
    except ValueError:  # of parts it is followed by their number
        return None
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else None


def _body(bucket: Bucket, name: str, answer: Answer) -> bytes:
    # Whatever is wrong with the answer: an unread body would keep its connection.
    with bucket.failures.unbroken(name), closing(answer["Body"]) as stream:
        promised = int(bucket.genuine(answer, name).get("ContentLength", -1))
        check_size(bucket.place.location, name, promised)
        data: bytes = stream.read()
    if len(data) != promised:
        raise BrokenOff(f"{bucket.place.location}: {name}: expected {promised} bytes, got {len(data)}")
    return data


def listed(bucket: Bucket, prefix: str, page_size: int) -> Iterator[ObjectInfo]:
    """The objects below a prefix of whole parts; raises StoreError."""
    folder = bucket.place.folder
    below = f"{prefix}/"
    for page in _pages(bucket, folder + prefix, page_size):
        for entry in page:
            name = entry["Key"][len(folder) :]
            if (not prefix or name == prefix or name.startswith(below)) and _is_name(name):
                yield ObjectInfo(name, entry["Size"], entry["LastModified"].timestamp())


def _pages(bucket: Bucket, start: str, page_size: int) -> Iterator[list[dict[str, Any]]]:
    """The entries of each page; every one of them is looked at before the first is given out."""
    token: dict[str, str] = {}
    last = b""
    while True:
        answer = bucket.ask("list_objects_v2", Prefix=start, MaxKeys=page_size, **token)
        entries = answer.get("Contents", [])
        _require(bucket, isinstance(answer.get("IsTruncated"), bool), "a page of a listing", "something else")
        _require(bucket, answer.get("Prefix", start) == start, "the listing asked for", "that of another prefix")
        for entry in entries:
            is_whole = {"Key", "Size", "LastModified"} <= entry.keys() and entry["Key"].startswith(start)
            _require(bucket, is_whole, "entries of the listing asked for", "others")
            key = entry["Key"].encode("utf-8", "surrogateescape")
            _require(bucket, key > last, "keys in rising order", "others", hint=_NOT_SORTED)
            last = key
        following = answer.get("NextContinuationToken")
        yield entries
        if not answer["IsTruncated"]:
            return
        is_new = bool(following) and following != token.get("ContinuationToken")
        _require(bucket, is_new, "a way to the next page", "none")
        token = {"ContinuationToken": str(following)}


def _require(bucket: Bucket, condition: bool, expected: str, got: str, *, hint: str | None = None) -> None:
    if not condition:
        raise StoreError(
            f"{bucket.place.location}: cannot list: expected {expected}, got {got}",
            hint=hint or "check the endpoint's address: a proxy, a portal or another service may have answered",
        )


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except ValueError:
        return False
    return True
