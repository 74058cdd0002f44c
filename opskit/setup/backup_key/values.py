"""The values of this target: recovery-key files, and the private keys in them while they are used, in memory alone.

Invariant: no message and no cause of an exception tells anything of a value but the fingerprint in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from opskit import gpg
from opskit.access import Held
from opskit.errors import Damaged, OpskitError, TargetRefused
from opskit.gpg import KeyInfo, Keyring
from opskit.repository.recovery import keyfile
from opskit.secrets.reference import Secret

SET_BY_HAND = "set it once by hand: opskit secrets set REFERENCE < recovery-key.asc"


@contextmanager
def held_of(*values: Secret) -> Iterator[tuple[Held, list[KeyInfo]]]:
    """The private keys of these values, to open and to sign with, and the key of each; raises TargetRefused."""
    with gpg.ephemeral_keyring(None) as keyring:
        found = [_taken_in(keyring, each) for each in values]
        keys = {each.fingerprint: each for each in keyring.keys() if each.has_secret}
        if not keys.keys() >= set(found):  # a card's stub, or a public key
            raise _misshapen()
        held = Held(
            list(keys.values()),
            lambda data: keyring.decrypt(data, passphrase=b"").payload,
            lambda data, signer: keyring.sign(data, signer, passphrase=b""),
        )
        yield held, [keys[each] for each in found]


def armored(value: Secret) -> bytes:
    """The private key in a value; raises TargetRefused."""
    try:
        return keyfile.decode(value.reveal_bytes()).secret
    except Damaged:
        raise _misshapen() from None  # the cause may tell of the value


def repository_in(value: Secret) -> str | None:
    """The repository that a value was made for, where it tells; raises TargetRefused."""
    try:
        return keyfile.decode(value.reveal_bytes()).repository or None
    except Damaged:
        raise _misshapen() from None


def fingerprint_in(value: Secret) -> str | None:
    """Whose private key a value is; None where it is none."""
    try:
        return fingerprint_of(armored(value))
    except TargetRefused:
        return None


def fingerprint_of(private: bytes) -> str | None:
    """Whose key this is, armored or not; None where it is none."""
    with gpg.ephemeral_keyring(None) as keyring, suppress(Damaged):
        return keyring.import_keys(private)[0]
    return None


def require_unlocked(held: Held, key: KeyInfo) -> None:
    """Raise TargetRefused where a key cannot be used without a passphrase, or cannot agree to what is done with it."""
    if not key.can_sign:
        raise TargetRefused(
            f"{key.fingerprint} has no part that signs: it could not agree that key objects are superseded",
            hint="opskit keys rotate --key FILE replaces it by one that has",
        )
    try:
        held.sign(b"", key.fingerprint)
    except OpskitError:  # gpg tells a key that is locked from others in words alone
        raise TargetRefused(
            f"the private key of {key.fingerprint} cannot sign: it is protected by a passphrase, expected one without "
            "as the store protects it; or its primary part is not in it",
            hint="export it without (gpg --edit-key … passwd, in a scratch GNUPGHOME), or make a new recipient with "
            "opskit keys rotate --no-passphrase",
        ) from None


def required(current: Secret | None) -> Secret:
    """The value before; raises TargetRefused where there is none: nobody could let a new key in."""
    if current is None:
        raise TargetRefused(
            "the store has no key that opens the backups: a new one could not be let in", hint=SET_BY_HAND
        )
    return current


def _taken_in(keyring: Keyring, value: Secret) -> str:
    """The fingerprint of the one key of a value."""
    try:
        (fingerprint,) = keyring.import_keys(armored(value))
    except (Damaged, ValueError):
        raise _misshapen() from None
    return fingerprint


def _misshapen() -> TargetRefused:
    return TargetRefused("the value in the store is no recovery-key file: expected one private key", hint=SET_BY_HAND)
