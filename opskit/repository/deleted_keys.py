"""The note of recipients whose private key was deleted for ever: what is encrypted to such a one opens to nobody.

An old config that is put back names such a key again, and nothing about its public half tells: so whoever encrypts to
recipients asks here. Invariants: the note holds no secret, and is never taken for empty where it cannot be read. It is
to be written before the key is deleted, by one command at a time. Other hosts learn it from the key that was sealed
(`sealed_keys`), and a host that comes back from a copy does; but whoever says later that he has it is believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

from opskit import encoding
from opskit.errors import ConfigError, Damaged
from opskit.repository.durable import write_durably

_NOTE = "deleted-keys.json"
_WHY = "its private key was deleted on"
_BACK = "taken back "
_FINGERPRINT = re.compile("[0-9A-F]{40}|[0-9A-F]{64}")

HINT = (
    "let keys.recipients name somebody else (opskit keys add, then opskit keys remove FINGERPRINT); if you do have "
    "that private key, on paper perhaps: opskit keys add FINGERPRINT"
)


def read(state: Path) -> dict[str, date]:
    """The day (UTC) on which each private key was deleted, by fingerprint in capitals; empty before the first.

    Raises ConfigError where the note is damaged, or cannot be read.
    """
    return {each: date.fromisoformat(said) for each, said in _noted(state).items() if not said.startswith(_BACK)}


def _noted(state: Path) -> dict[str, str]:
    """What the note says of each: the day of the deletion, or since when somebody is known to have it."""
    try:
        return _decoded((state / _NOTE).read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(
            f"{state / _NOTE} cannot be read: {(error.strerror or 'error').lower()}",
            hint="run opskit as the user that owns state_dir (sudo?), or name a config of your own with --config",
        ) from error
    except (Damaged, ValueError) as error:
        raise ConfigError(
            f"{state / _NOTE} is damaged: {error}",
            hint="it names recipients whose private key was deleted: bring it back from a copy of the state folder; "
            "or see that keys.recipients names none of these, and move it away",
        ) from error


def objections(state: Path) -> dict[str, str]:
    """Why nobody could open what is encrypted to each of them, by fingerprint; raises ConfigError as `read` does."""
    return {fingerprint: f"{_WHY} {day}, so nobody could open it" for fingerprint, day in read(state).items()}


def note(state: Path, fingerprint: str, when: datetime) -> None:
    """Say, durably, that a private key is about to be deleted, beside what is noted; raises ConfigError, OpskitError.

    A key that is noted already keeps its day.
    """
    noted = _noted(state)
    if noted.get(fingerprint.upper(), _BACK).startswith(_BACK):
        _write(state, noted | {fingerprint.upper(): when.astimezone(UTC).date().isoformat()})


def note_elsewhere(state: Path, fingerprint: str, when: datetime) -> None:
    """The same of a key that another host deletes, by its clock; not where it was taken back later than `when`."""
    said = _noted(state).get(fingerprint.upper(), "")
    if not said or (said.startswith(_BACK) and _back_since(said) < when):
        note(state, fingerprint, when)


def take_back(state: Path, fingerprint: str, now: datetime) -> None:
    """Somebody has that private key after all, whatever was said before; raises ConfigError, OpskitError."""
    said = _BACK + now.astimezone(UTC).isoformat()
    _write(state, _noted(state) | {fingerprint.upper(): said})


def hint(rejected: Iterable[str], otherwise: str) -> str:
    """What to do about recipients that were rejected for these reasons; `otherwise` where there are others."""
    deleted = [*map(is_objection, rejected)]
    if not any(deleted):
        return otherwise
    return HINT if all(deleted) else f"{otherwise}; {HINT}"


def is_objection(text: str) -> bool:
    """Whether a sentence about a recipient says that his private key was deleted."""
    return _WHY in text


def _write(state: Path, noted: Mapping[str, str]) -> None:
    write_durably(state / _NOTE, encoding.encode(dict(noted)))


def _back_since(said: str) -> datetime:
    return datetime.fromisoformat(said.removeprefix(_BACK)).astimezone(UTC)


def _decoded(data: bytes) -> dict[str, str]:
    found = encoding.decode_object(data, what=_NOTE)
    if strange := [each for each in found if not _FINGERPRINT.fullmatch(each)]:
        raise Damaged(f"expected fingerprints of 40 hexadecimal digits, got {strange[0]!r}")
    if strange := [each for each, day in found.items() if not isinstance(day, str)]:
        raise Damaged(f"expected the day on which {strange[0]} was deleted, got something else")
    for said in found.values():  # raises ValueError
        (_back_since if said.startswith(_BACK) else date.fromisoformat)(said)
    return found
