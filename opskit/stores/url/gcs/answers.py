"""How answers of Google Cloud Storage are read, and told from those of anybody else (a portal, a proxy, a wrong host).

The forms are those of the reference of the JSON API: "HTTP status and error codes for JSON", "Objects: list" and
"Objects: get". What has not that form says nothing: neither that a bucket is empty nor that an object is absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from opskit.stores.base import ObjectInfo
from opskit.stores.url.service import Refused, Short

OK, NO_CONTENT, PARTIAL = 200, 204, 206
BAD, DENIED, ABSENT, TAKEN, OUT_OF_RANGE, BUSY = 400, 403, 404, 412, 416, 429
_TOO_FAST = {"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"}
_STRANGE = "an answer that is none of Google's"


class Extent(NamedTuple):
    """Which bytes of an object an answer holds, and how many there are in all."""

    start: int
    end: int
    size: int


def resource(status: int, data: bytes, kind: str) -> dict[str, Any]:
    """What an answer that must be a success of that kind says; raises what `refusal` makes of another."""
    if status != OK:
        raise refusal(status, data)
    found = _object(data)
    if found.get("kind") != f"storage#{kind}":
        raise Refused(status, _STRANGE)
    return found


def refusal(status: int, data: bytes) -> Exception:
    """What a no means: a standard error where Google says so, else Refused."""
    error = _object(data).get("error")
    if not isinstance(error, dict) or error.get("code") != status:
        return Refused(status, _STRANGE)
    details = error.get("errors")
    first = details[0] if isinstance(details, list) and details and isinstance(details[0], dict) else {}
    reason, said = str(first.get("reason", "")), str(error.get("message", ""))
    text = f"{reason} {said}"
    if status == ABSENT:
        return FileNotFoundError(text)
    if status == TAKEN:
        return FileExistsError(text)
    if status == BAD and re.search("md5|crc32c", said, re.IGNORECASE):  # other bytes came than were sent
        return Short(text)
    return Refused(BUSY if status == DENIED and reason in _TOO_FAST else status, text)


def listed(item: object) -> ObjectInfo:
    """One item of a listing; raises Refused."""
    try:
        if not isinstance(item, dict) or not isinstance(item["name"], str):
            raise TypeError
        # `updated` would move with each change of what is said of an object. Some leave a nought out.
        return ObjectInfo(
            item["name"], int(item.get("size", 0)), datetime.fromisoformat(item["timeCreated"]).timestamp()
        )
    except (KeyError, TypeError, ValueError):
        raise Refused(OK, f"{_STRANGE}: an item of a listing without name and time") from None


def extent(status: int, headers: Mapping[str, str], offset: int) -> Extent:
    """Which bytes come with a download that begins at `offset`; raises Refused where it is no download of Google's."""
    length = headers.get("content-length", "")
    found = re.fullmatch(r"bytes (\d+)-(-?\d+)/(\d+)", headers.get("content-range", ""))
    if status == PARTIAL and found and int(found[1]) == offset:
        return Extent(offset, int(found[2]) + 1, int(found[3]))
    if status == OK and length.isdecimal() and any(name.lower().startswith("x-goog-") for name in headers):
        return Extent(0, int(length), int(length))
    raise Refused(status, _STRANGE)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:  # text that is no UTF-8, too
        return {}
    return found if isinstance(found, dict) else {}
