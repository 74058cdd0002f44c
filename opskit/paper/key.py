"""What gpg says of a key that goes onto paper, or comes back from it. The key is in memory for that moment alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from opskit import gpg
from opskit.errors import Damaged, NoKey, UsageError
from opskit.paper.page import Facts
from opskit.paper.sheet import plain
from opskit.repository.recovery import keyfile


def facts_of(data: bytes, printed: str) -> Facts:
    """What the page says of the key file `data`; `printed` is a date. Raises Damaged, UsageError, NoKey."""
    keyfile.decode(data)  # of what is no key file at all, nothing else is worth telling
    text = plain(data)
    known = keyfile.decode(text.encode())
    keys, is_protected = examined(known.secret)
    return Facts(
        text,
        hashlib.sha256(text.encode()).hexdigest(),
        keys,
        known.repository,
        known.recover_sha256,
        known.signers,
        is_protected,
        printed,
    )


def examined(secret: bytes) -> tuple[Sequence[tuple[str, str]], bool]:
    """(fingerprint, user id) of the private keys in `secret`, and whether all of them need a passphrase.

    Raises Damaged where gpg does not take them, UsageError where the private half is on a card.
    """
    with gpg.ephemeral_keyring(secret) as keyring:
        keys = [(key.fingerprint, key.user_id) for key in keyring.keys() if key.has_secret]
        if not keys:
            raise UsageError(
                "the key file has no private half in it, but a card's stub", hint="a card cannot be put on paper"
            )
        return keys, all(_is_protected(keyring, fingerprint) for fingerprint, _ in keys)


def _is_protected(keyring: gpg.Keyring, fingerprint: str) -> bool:
    """gpg gives out, without a passphrase, only what has none."""
    try:
        keyring.export_secret(fingerprint, passphrase=b"")
    except NoKey:
        return True
    return False


def proven(text: str) -> Sequence[str]:
    """The fingerprints of the private keys in a text that came back from paper; raises Damaged where gpg wants none."""
    known = keyfile.decode(text.encode())
    keys, _ = examined(known.secret)
    if known.public:
        with gpg.ephemeral_keyring(None) as keyring:
            found = keyring.import_keys(known.public)
        if absent := {*known.signers, *known.maintainers} - {*found}:
            raise Damaged(f"expected the public keys of all signers in it, {', '.join(sorted(absent))} is missing")
    return [fingerprint for fingerprint, _ in keys]
