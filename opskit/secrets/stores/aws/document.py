"""A secret string that is a JSON object: one value in it, and the same object with that value changed.

A field is a dotted path (`database.password`); what it does not name stays as it is. No message contains any of it.
"""

from __future__ import annotations

import json
from typing import Any

from opskit.errors import SecretStoreError
from opskit.secrets.reference import Reference

Document = dict[str, Any]


def parsed(reference: Reference, text: str) -> Document:
    """The object; raises SecretStoreError where the secret is none."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None  # not raised from here: the cause would carry the text
    if not isinstance(found, dict):
        raise SecretStoreError(
            f"{reference} names a key: expected a secret that is a JSON object, got another text",
            hint="leave out '#key' to take the whole text as the secret",
        )
    return found


def value_at(reference: Reference, document: Document, field: str) -> str | None:
    """The value of a field, numbers and booleans as JSON writes them; None where there is none, or null.

    Raises SecretStoreError for an object or a list, and for what is no Unicode text.
    """
    found: Any = document
    for key in field.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if found is None:
        return None
    if isinstance(found, dict | list):
        raise SecretStoreError(f"{reference} is no single value: expected a text in the JSON, got an object or a list")
    text = found if isinstance(found, str) else json.dumps(found)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise SecretStoreError(
            f"{reference} is no text: expected Unicode in the JSON, got half of a pair of surrogates"
        )
    return text


def with_value(reference: Reference, document: Document, field: str, value: str) -> Document:
    """The object with a field set; raises SecretStoreError where the path leads through what is no object."""
    key, _, rest = field.partition(".")
    if not rest:
        return document | {key: value}
    inner = document.get(key, {})
    if not isinstance(inner, dict):
        raise SecretStoreError(f"{reference} leads through a value: expected an object at '{key}' of the JSON")
    return document | {key: with_value(reference, inner, rest, value)}


def without(document: Document, field: str) -> Document:
    """The object without a field, nor the objects that held nothing else."""
    key, _, rest = field.partition(".")
    others = {name: value for name, value in document.items() if name != key}
    inner = document.get(key)
    if rest and key in document:
        left = without(inner, rest) if isinstance(inner, dict) else inner
        return others if left == {} else others | {key: left}
    return others
