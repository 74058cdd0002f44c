"""Canonical JSON: one value has exactly one encoding, so equal content gives equal object names.

UTF-8, keys sorted, no white space, no NaN, no duplicate keys. Nothing here knows what the JSON means.
"""

from __future__ import annotations

from typing import Any, cast

import orjson

from opskit.errors import Damaged


def encode(value: object) -> bytes:
    """The canonical JSON bytes of `value` (str, int, bool, None, list, dict with str keys)."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


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
