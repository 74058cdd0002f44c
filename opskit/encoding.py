"""Canonical JSON: one value has exactly one encoding, so equal content gives equal object names.

UTF-8, keys sorted, no white space, no NaN, no duplicate keys. Nothing here knows what the JSON means.
"""

from __future__ import annotations

from typing import Any, cast

import orjson

from opskit.errors import Damaged

_PLAIN = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def encode(value: object) -> bytes:
    """The canonical JSON bytes of `value` (str, int, bool, None, list, dict with str keys)."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def encode_plain(value: object) -> bytes:
    """The same for JSON types alone; raises TypeError where `encode` has a text for another class (dates, for one).

    Members of an Enum are given as their values, UUIDs as text, NaN as null.
    """
    return orjson.dumps(value, option=_PLAIN)


def decode(data: bytes | memoryview) -> Any:
    """Parse JSON; raises Damaged. What comes back is as untrusted as `data`."""
    return _parsed(data, "")


def decode_object(data: bytes | memoryview, *, what: str) -> dict[str, Any]:
    """Parse JSON that must be an object; raises Damaged naming `what`."""
    value = _parsed(data, f"{what}: ")
    if not isinstance(value, dict):
        raise Damaged(f"{what}: expected a JSON object, got {type(value).__name__}")
    return cast(dict[str, Any], value)


def _parsed(data: bytes | memoryview, prefix: str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Damaged(f"{prefix}expected JSON, got something else: {error}") from error
