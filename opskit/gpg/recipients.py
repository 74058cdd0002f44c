"""To whom a message is encrypted, told by its packets (RFC 4880, section 5.1) without any key.

It deliberately decrypts nothing: that the session key in such a packet is the right one, only the private key shows.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Sequence

from opskit.errors import Damaged
from opskit.gpg.listing import KeyInfo
from opskit.gpg.packets import FOR_KEY, unpack

_ARMOR = re.compile(rb"-----BEGIN PGP MESSAGE-----\r?\n(?:[A-Za-z]+: .*\n)*\r?\n(.*?)-----END PGP MESSAGE-----", re.S)
_ENCRYPTED = (18, 20)
"""With a modification detection code; or OCB, which gpg 2.3 and newer write to keys that ask for it."""


def recipients_of(message: bytes) -> tuple[str, ...]:
    """The key ids (16 upper hex) that a message is encrypted to, in its order; raises Damaged for any other message."""
    binary = _dearmored(message)
    _, packets = unpack(binary, limit=len(binary) + 1)
    ways_in = packets[:-1]
    if not ways_in or packets[-1].tag not in _ENCRYPTED or any(each.tag != FOR_KEY for each in ways_in):
        raise Damaged("expected a message encrypted to public keys alone, got something else")
    if any(each.body[:1] != b"\x03" or len(each.body) < 10 for each in ways_in):
        raise Damaged("expected ways in of version 3, got others")
    return tuple(each.body[1:9].hex().upper() for each in ways_in)


def owners(key_ids: Sequence[str], keys: Collection[KeyInfo]) -> list[str]:
    """Whose key ids these are: primary fingerprints; a key id that is nobody's stands for itself."""
    known = {key_id: key.fingerprint for key in keys for key_id in key.key_ids}
    return list(dict.fromkeys(known.get(key_id, key_id) for key_id in key_ids))


def _dearmored(message: bytes) -> bytes:
    if not message.startswith(b"-----BEGIN"):
        return message
    found = _ARMOR.match(message)
    if found is None:
        raise Damaged("expected an armored message, got something else")
    lines = [line.strip() for line in found[1].splitlines()]
    try:
        return base64.b64decode(b"".join(line for line in lines if not line.startswith(b"=")), validate=True)
    except binascii.Error as error:
        raise Damaged(f"an armored message does not decode: {error}") from error
