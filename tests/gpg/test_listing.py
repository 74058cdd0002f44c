"""Which keys end soon, and to whom a message is encrypted: told without any private key."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.errors import Damaged
from opskit.gpg import KeyInfo, Keyring, expiring, owners, recipients_of

DAY = 86400


def key(expires: int | None) -> KeyInfo:
    return KeyInfo("A" * 40, "somebody", 0, expires, False, False, True, True, "rsa4096", ("1" * 16, "2" * 16))


def test_keys_that_end_within_a_month_are_told() -> None:
    """Not those that end later or never, nor those that have ended: others tell of them."""
    now = 1_000_000_000
    assert not expiring([key(None), key(now + 31 * DAY), key(now)], now)
    (text,) = expiring([key(now + 29 * DAY)], now)
    assert text.startswith("A" * 40) and "expires on 2001-10-08" in text


def test_recipients_are_told_by_the_packets(tmp_short: Path) -> None:
    """Of each recipient the encryption key's id, whose owner a listing tells; a stranger's id stands for itself."""
    with Keyring(tmp_short / "ring") as ring:
        prints = [ring.generate(f"{name} <{name}@example.org>") for name in "ab"]
        message = ring.encrypt(b"text", prints)
        ids = recipients_of(message)
        assert sorted(owners(ids, ring.keys())) == sorted(prints) and len(ids) == 2
        known = [each for each in ring.keys() if each.fingerprint == prints[0]]
        assert len(set(owners(ids, known)) & set(ids)) == 1
        signed = ring.sign(b"text", prints[0])
    cut = message[: len(message) // 2] + message[-30:]
    for wrong in (signed, b"", b"text", cut, b"-----BEGIN PGP MESSAGE-----\n\n????\n-----END PGP MESSAGE-----\n"):
        with pytest.raises(Damaged):
            recipients_of(wrong)
