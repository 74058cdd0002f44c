"""Key objects: run keys, encrypted so that each reader of the backups opens them, and nobody else.

Invariants: every key object is made here, whoever writes it; a reader that cannot be encrypted to is named, never left
out in silence; there is no key object without a usable recipient. What becomes of older objects is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from opskit import encoding
from opskit.errors import NoKey, UnresolvedReference
from opskit.gpg import PASSPHRASE, usable_recipients
from opskit.repository import deleted_keys
from opskit.repository.identity import Identity

_SHORTEST, _LONGEST = 12, 1000
"""Bytes of a passphrase that opens backups; gpg reads fewer than 4096."""


@dataclass(frozen=True, slots=True)
class Readers:
    """Who is to open a key object: full fingerprints of recipients, and perhaps who knows a passphrase.

    `rejected` tells who cannot, and why.
    """

    recipients: list[str]
    rejected: list[str]
    passphrase: bytes | None = field(default=None, repr=False)


def wanted_readers(recipients: Iterable[str], *, passphrase: bool) -> list[str]:
    """Who is to open key objects, as `gpg.owners` names those who do: sorted."""
    return sorted({*recipients, *([PASSPHRASE] if passphrase else [])})


def readers_of(identity: Identity, now: float) -> Readers:
    """The readers that this host's config names, as far as they can be encrypted to now; raises NoKey without any.

    `now` is epoch seconds. Raises ConfigError where it is not known whose private key was deleted.
    """
    valid, rejected = usable_recipients(identity.keyring.keys(), identity.recipients, now, identity.deleted())
    if not valid:
        raise NoKey(
            "no recipient can be encrypted to: " + "; ".join(rejected or ["none is configured"]),
            hint="check the clock of this host: it is behind the day on which the keys were made"
            if all("the clock" in reason for reason in rejected) and rejected
            else deleted_keys.hint(
                rejected, "opskit keys list shows the recipients; import a renewed public key or add another recipient"
            ),
        )
    passphrase, objections = _passphrase(identity)
    return Readers(valid, rejected + objections, passphrase)


def require_passphrase(identity: Identity) -> None:
    """Raise NoKey where the config names a passphrase that cannot be used."""
    _, objections = _passphrase(identity)
    if objections:
        raise NoKey(
            objections[0],
            hint="put it where keys.passphrase says, or take keys.passphrase out of the config: then nobody opens "
            "the backups with it any more",
        )


def seal(identity: Identity, keys: Mapping[str, str], readers: Readers) -> bytes:
    """The key object of these runs (id → run key) for these readers."""
    return identity.keyring.encrypt(encoding.encode(dict(keys)), readers.recipients, passphrase=readers.passphrase)


def _passphrase(identity: Identity) -> tuple[bytes | None, list[str]]:
    """The passphrase of the config, and what is wrong with it; backups go on without it, as without an expired key."""
    if identity.passphrase is None:
        return None, []
    try:
        found = identity.passphrase()
    except UnresolvedReference as error:
        return None, [f"keys.passphrase cannot be used: {error}"]
    if b"\n" in found or b"\0" in found or len(found) > _LONGEST:
        return None, [f"keys.passphrase cannot be used: expected one line of at most {_LONGEST} bytes"]
    if len(found) < _SHORTEST:
        return None, [
            f"keys.passphrase cannot be used: expected at least {_SHORTEST} characters: whoever has a copy can guess"
        ]
    return found, []
