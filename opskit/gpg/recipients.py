"""To whom a message is encrypted, told by its packets (RFC 4880, section 5.1) without any key.

It deliberately decrypts nothing: that the session key in such a packet is the right one, only the private key shows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from opskit.errors import Damaged
from opskit.gpg.listing import KeyInfo
from opskit.gpg.packets import FOR_KEY, FOR_PASSPHRASE, Packet, dearmored, unpack

PASSPHRASE = "passphrase"
"""Stands among key ids for whoever knows a passphrase."""
_ENCRYPTED = (18, 20)
"""With a modification detection code; or OCB, which gpg 2.3 and newer write to keys that ask for it."""


def recipients_of(message: bytes) -> tuple[str, ...]:
    """The key ids (16 upper hex) that a message is encrypted to, in its order, PASSPHRASE for a passphrase.

    Raises Damaged for what is no message to at least one public key.
    """
    binary = dearmored(message)
    _, packets = unpack(binary, limit=len(binary) + 1)
    ways_in = packets[:-1]
    tags = {each.tag for each in ways_in}
    if FOR_KEY not in tags or packets[-1].tag not in _ENCRYPTED or not tags <= {FOR_KEY, FOR_PASSPHRASE}:
        raise Damaged("expected a message encrypted to public keys, got something else")
    return tuple(_way_in(each) for each in ways_in)


def _way_in(packet: Packet) -> str:
    if packet.tag == FOR_PASSPHRASE:
        return PASSPHRASE
    if packet.body[:1] != b"\x03" or len(packet.body) < 10:
        raise Damaged("expected ways in of version 3, got others")
    return packet.body[1:9].hex().upper()


def owners(key_ids: Sequence[str], keys: Collection[KeyInfo]) -> list[str]:
    """Whose key ids these are: primary fingerprints; a key id that is nobody's stands for itself."""
    known = {key_id: key.fingerprint for key in keys for key_id in key.key_ids}
    return list(dict.fromkeys(known.get(key_id, key_id) for key_id in key_ids))
