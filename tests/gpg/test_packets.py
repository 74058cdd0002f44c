"""The outer shape of messages."""

from __future__ import annotations

import zlib
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import Damaged
from opskit.gpg.packets import LITERAL, literal_payload, passphrases_alone, unpack, without_passphrases

LIMIT = 1 << 20


def partial(tag: int, body: bytes, power: int) -> bytes:
    """A new-format packet whose body comes in pieces of 2**power bytes, with a one- or five-octet end."""
    step = 1 << power
    out = bytearray([0xC0 | tag])
    while len(body) >= step:
        out += bytes([0xE0 | power]) + body[:step]
        body = body[step:]
    end = bytes([len(body)]) if len(body) < 192 else b"\xff" + len(body).to_bytes(4, "big")
    return bytes(out + end + body)


@given(st.binary(max_size=5000), st.integers(0, 12))
def test_partial_lengths_are_joined(body: bytes, power: int) -> None:
    """A body cut into pieces of any power of two is joined to the same body."""
    _whole, packets = unpack(partial(LITERAL, body, power), limit=LIMIT)
    assert packets == [(LITERAL, body)]


@pytest.mark.parametrize(
    "header",
    [b"\xcb\x03", b"\xcb\xff\0\0\0\x03", b"\xac\x03", b"\xad\0\x03", b"\xae\0\0\0\x03"],
    ids=["new one octet", "new five octets", "old one", "old two", "old four"],
)
def test_every_form_of_length(header: bytes) -> None:
    """Old and new headers with lengths of one, two, four and five octets are read."""
    assert unpack(header + b"abc", limit=LIMIT)[1] == [(LITERAL, b"abc")]


def test_two_octet_length() -> None:
    """The two-octet length of the new format is read (RFC 4880, section 4.2.2.2)."""
    assert unpack(b"\xcb\xc5\xfb" + bytes(1723), limit=LIMIT)[1] == [(LITERAL, bytes(1723))]


@given(st.binary(max_size=300))
def test_any_bytes_are_packets_or_damaged(data: bytes) -> None:
    """Bytes from anywhere give packets or Damaged, never another exception."""
    for form in (data, b"\xa3\x01" + data, b"\xa3\x02" + zlib.compress(data), b"\xcb" + data):
        try:
            _whole, packets = unpack(form, limit=LIMIT)
            [literal_payload(packet) for packet in packets]
        except Damaged:
            continue


@pytest.mark.parametrize("body", [b"", b"b", b"b\0\0\0\0", b"b\x05\0\0\0\0ab", b"t\0\0\0\0\0x", b"u\0\0\0\0\0x"])
def test_a_short_or_textual_literal_is_damaged(body: bytes) -> None:
    """A literal that ends in its header, or is not binary, has no payload."""
    with pytest.raises(Damaged):
        literal_payload(unpack(partial(LITERAL, body, 9), limit=LIMIT)[1][0])


def test_only_the_public_key_ways_in_are_kept() -> None:
    """Passphrase packets go where a public-key packet stays, and otherwise the message is left as it is."""
    key, phrase, body = b"\x84\x02ab", b"\x8c\x03abc", b"\xd2\x04text"
    assert without_passphrases(key + phrase + key + body) == key + key + body
    for message in (phrase + body, body, b"", b"-----BEGIN PGP MESSAGE-----"):
        assert without_passphrases(message) == message


def test_only_the_passphrase_ways_in_are_kept() -> None:
    """The other way round, armored or not; where no passphrase opens the message there is nothing."""
    key, phrase, body = b"\x84\x02ab", b"\x8c\x03abc", b"\xd2\x04text"
    armored = (
        b"-----BEGIN PGP MESSAGE-----\n\n" + b64encode(key + phrase + body) + b"\n=abcd\n-----END PGP MESSAGE-----\n"
    )
    for message in (key + phrase + body, phrase + key + body, armored, armored.replace(b"\n", b"\r\n")):
        assert passphrases_alone(message) == phrase + body
        assert without_passphrases(message) == key + body
    assert passphrases_alone(key + body) is None and passphrases_alone(body) is None
    with pytest.raises(Damaged, match="ASCII armor"):
        passphrases_alone(b"-----BEGIN PGP MESSAGE-----\n\n!!!\n=abcd\n-----END PGP MESSAGE-----\n")


def test_inflating_stops_at_the_limit() -> None:
    """A compressed packet that grows beyond the limit is refused, one that just fits is not."""
    fits = partial(LITERAL, bytes(1000), 12)
    assert unpack(b"\xa3\x02" + zlib.compress(fits), limit=len(fits))[0] == fits
    with pytest.raises(Damaged, match="less than"):
        unpack(b"\xa3\x02" + zlib.compress(fits), limit=len(fits) - 1)
