"""The outer shape of a signed or plain OpenPGP message (RFC 4880, section 4), checked before gpg sees it.

gpg and gpgv ignore what follows the end of a compressed packet, and judge only the first of several messages. Here a
message is accepted only if it is, to its last byte, one compressed packet (or none) around exactly: one-pass
signature, literal, signature; or a literal alone.

It deliberately checks no signature and decrypts nothing.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import NamedTuple

from opskit.errors import Damaged

FOR_KEY, SIGNATURE, FOR_PASSPHRASE, ONE_PASS, COMPRESSED, LITERAL = 1, 2, 3, 4, 8, 11
SIGNED = [ONE_PASS, LITERAL, SIGNATURE]
PLAIN = [LITERAL]

_ARMOR = b"-----BEGIN PGP MESSAGE-----"
_INFLATE = {1: -zlib.MAX_WBITS, 2: zlib.MAX_WBITS}
_UNCOMPRESSED = 0


class Packet(NamedTuple):
    """A packet's tag, and its body with partial lengths joined."""

    tag: int
    body: bytes


def unpack(message: bytes, *, limit: int) -> tuple[bytes, list[Packet]]:
    """The message without its compression layer, and its packets.

    `limit` (bytes) bounds the inflated size. Raises Damaged when the bytes are not a whole number of packets, are
    followed by anything, or grow beyond the limit.
    """
    tag, start = _tag(message, 0)
    if tag == COMPRESSED:
        message = _inflate(_compressed_body(message, start), limit)
    packets = []
    position = 0
    while position < len(message):
        packet, position = _packet(message, position)
        packets.append(packet)
    return message, packets


def without_passphrases(message: bytes) -> bytes:
    """An encrypted message with its public-key ways in alone, in binary; as it is where it has none of them."""
    return _with_ways(FOR_KEY, message) or message


def passphrases_alone(message: bytes) -> bytes | None:
    """An encrypted message with its passphrase ways in alone, in binary; None where no passphrase opens it."""
    return _with_ways(FOR_PASSPHRASE, message)


def _with_ways(wanted: int, armored: bytes) -> bytes | None:
    message = dearmored(armored)
    kept = []
    position = 0
    while message[position : position + 1] >= b"\x80" and _tag(message, position)[0] in (FOR_KEY, FOR_PASSPHRASE):
        packet, end = _packet(message, position)
        if packet.tag == wanted:
            kept.append(message[position:end])
        position = end
    return b"".join(kept) + message[position:] if kept else None


def dearmored(message: bytes) -> bytes:
    """The bytes inside ASCII armor (RFC 4880, section 6.2); what is not armored comes as it is."""
    if not message.startswith(_ARMOR):
        return message
    lines = message.replace(b"\r\n", b"\n").partition(b"\n\n")[2].partition(b"\n-----END")[0].split(b"\n")
    try:
        return base64.b64decode(b"".join(line for line in lines if not line.startswith(b"=")), validate=True)
    except binascii.Error as error:
        raise Damaged(f"expected a message in ASCII armor, got something else: {error}") from error


def literal_payload(packet: Packet) -> bytes:
    """The content of a binary literal packet. Raises Damaged for text mode, which may change line ends."""
    body = packet.body
    if len(body) < 6 or body[0:1] != b"b" or len(body) < 6 + body[1]:
        raise Damaged("expected a binary literal packet, got another mode or a short one")
    return body[6 + body[1] :]


def _tag(message: bytes, position: int) -> tuple[int, int]:
    first = _byte(message, position)
    if not first & 0x80:
        raise Damaged("expected a binary OpenPGP packet, got other bytes")
    tag = first & 0x3F if first & 0x40 else first >> 2 & 0x0F
    return tag, position + 1


def _compressed_body(message: bytes, start: int) -> bytes:
    if message[0] & 0x43 == 0x03:  # old format, indeterminate length: to the end of the message
        return message[start:]
    packet, end = _packet(message, 0)
    if end != len(message):
        raise Damaged(f"expected the end of the message, got {len(message) - end} more bytes")
    return packet.body


def _inflate(body: bytes, limit: int) -> bytes:
    algorithm = _byte(body, 0)
    if algorithm == _UNCOMPRESSED:
        return body[1:]
    if algorithm not in _INFLATE:
        raise Damaged(f"expected compression by ZIP or ZLIB, got algorithm {algorithm}")
    inflater = zlib.decompressobj(_INFLATE[algorithm])
    try:
        plain = inflater.decompress(memoryview(body)[1:], limit)
    except zlib.error as error:
        raise Damaged(f"the compressed message does not decode: {error}") from error
    if len(plain) >= limit and not inflater.eof:
        raise Damaged(f"expected a message of less than {limit} bytes, got more")
    if not inflater.eof or inflater.unused_data:
        raise Damaged("expected the end of the message, got a short or a longer one")
    return plain


def _packet(message: bytes, position: int) -> tuple[Packet, int]:
    header = _byte(message, position)
    tag, position = _tag(message, position)
    pieces = []
    partial = True
    while partial:
        if header & 0x40:
            size, position, partial = _new_length(message, position)
        else:
            size, position = _old_length(message, position, header & 3)
            partial = False
        if position + size > len(message):
            raise Damaged("expected a whole packet, got a truncated one")
        pieces.append(message[position : position + size])
        position += size
    return Packet(tag, b"".join(pieces)), position


def _old_length(message: bytes, position: int, kind: int) -> tuple[int, int]:
    if kind == 3:
        raise Damaged("expected a packet with a length, got an open end")
    width = 1 << kind
    return _number(message, position, width), position + width


def _new_length(message: bytes, position: int) -> tuple[int, int, bool]:
    first = _byte(message, position)
    if first < 192:
        return first, position + 1, False
    if first < 224:
        return ((first - 192) << 8) + _byte(message, position + 1) + 192, position + 2, False
    if first < 255:
        return 1 << (first & 0x1F), position + 1, True
    return _number(message, position + 1, 4), position + 5, False


def _number(message: bytes, position: int, width: int) -> int:
    if position + width > len(message):
        raise Damaged("expected a packet length, got the end of the message")
    return int.from_bytes(message[position : position + width], "big")


def _byte(message: bytes, position: int) -> int:
    return _number(message, position, 1)
