"""What endpoints of object storage honour, as `init` found out by trying: the note of it in the state folder.

A note is no more than a hint: one that is lost or damaged says nothing, and then only the vendors' own endpoints are
trusted to honour a condition. It deliberately asks no endpoint; `wiring` does, and makes stores accordingly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from opskit import encoding
from opskit.config.model import Destination, S3Destination
from opskit.config.remote import GcsDestination
from opskit.errors import Damaged
from opskit.repository.durable import write_durably

_PUTS, _LOCK = ("conditional", "checksums"), "object_lock"


def assumed(destination: Destination) -> dict[str, bool]:
    """What is believed of an endpoint that nobody has asked: all of AWS and Google, of others nothing: a put looks."""
    match destination:
        case S3Destination(s3=there):
            is_vendors = there.endpoint is None
        case GcsDestination(gcs=google):
            is_vendors = google.endpoint is None
        case _:
            is_vendors = False
    return dict.fromkeys(_PUTS, is_vendors)


def entry(*, conditional: bool, checksums: bool, object_lock: bool | None = None) -> dict[str, bool]:
    """What to keep of one endpoint; `object_lock`: None where no lock was tried."""
    known = dict(zip(_PUTS, (conditional, checksums), strict=True))
    return known if object_lock is None else known | {_LOCK: object_lock}


def note(state: Path, known: Mapping[str, Mapping[str, bool]]) -> None:
    """Keep what was found out, by destination, as `entry` gives it."""
    write_durably(_file(state), encoding.encode(known))


def noted(state: Path) -> dict[str, dict[str, bool]]:
    """What was found out, by destination; a file that cannot be read says nothing."""
    try:
        value = encoding.decode_object(_file(state).read_bytes(), what="endpoints.json")
        return {
            name: {key: each[key] is True for key in (*_PUTS, *({_LOCK} & each.keys()))} for name, each in value.items()
        }
    except (OSError, Damaged, AttributeError, KeyError, TypeError):
        return {}


def for_puts(state: Path) -> dict[str, dict[str, bool]]:
    """What endpoints honour when something is put, by destination."""
    return {name: {key: each[key] for key in _PUTS} for name, each in noted(state).items()}


def lock_trials(state: Path) -> dict[str, bool]:
    """By destination, whether a locked object could not be deleted when `init` tried; not all were tried."""
    return {name: each[_LOCK] for name, each in noted(state).items() if _LOCK in each}


def _file(state: Path) -> Path:
    return state / "endpoints.json"
