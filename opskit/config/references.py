"""The secret references of a config, and at which of its keys they stand."""

from __future__ import annotations

from collections.abc import Iterator

from opskit.config.entry import Entry
from opskit.secrets.reference import Reference

IN_THE_CLEAR = {
    "env": "variables are inherited by children and shown by service managers",
    "dotenv": "a .env file keeps secrets in the clear",
}
"""Schemes that are for development, and why."""


def risk_of(reference: Reference, environment: str) -> str | None:
    """Why a reference should be another outside development; None where it may stay."""
    why = IN_THE_CLEAR.get(reference.scheme)
    if why is None or environment == "development":
        return None
    return f"{reference} is for development: {why}; expected gpg:, cred: or a file of mode 0600"


def references_in(value: object, place: str = "") -> Iterator[tuple[str, Reference]]:
    """(key, as `sources.db.postgresql.password`; reference) of every reference, in the order of the config."""
    if isinstance(value, Reference):
        yield place, value
        return
    parts: list[tuple[str, object]] = []
    if isinstance(value, Entry):
        parts = [(name, getattr(value, name)) for name in type(value).known_keys()]
    elif isinstance(value, dict):
        parts = [(str(name), each) for name, each in value.items()]
    elif isinstance(value, tuple | list):
        parts = [(str(number), each) for number, each in enumerate(value)]
    for name, each in parts:
        yield from references_in(each, f"{place}.{name}" if place else name)
