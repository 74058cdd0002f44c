"""Signed objects, and everything that only looks like one."""

from __future__ import annotations

import os
import stat
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opskit.errors import Damaged, Forged, OpskitError, UsageError
from opskit.gpg import UnknownSigner, verify, write_public_keyring
from opskit.gpg import verify as verify_function
from opskit.gpg.agent import stop_agent
from tests.gpg.keys import Owner, dated_key, private_folder, raw_gpg

PAYLOAD = b'{"format": 1, "sequence": 7}\n'


@pytest.fixture(scope="module")
def signed(host: Owner) -> bytes:
    return host.keyring.sign(PAYLOAD, host.fingerprint)


def inflated(signed: bytes) -> bytes:
    """The packets inside the compressed packet that --sign makes (old format, open end, ZIP)."""
    assert signed[:2] == b"\xa3\x01"
    return zlib.decompress(signed[2:], -15)


def deflated(packets: bytes) -> bytes:
    squeezer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return b"\xa3\x01" + squeezer.compress(packets) + squeezer.flush()


def split(packets: bytes) -> tuple[bytes, bytes, bytes]:
    """One-pass signature, literal and signature of a small message, each with its header."""
    parts = []
    while packets:
        header = packets[0]
        size, skip = (packets[1], 2) if header & 0x40 or not header & 3 else (packets[1] << 8 | packets[2], 3)
        parts.append(packets[: skip + size])
        packets = packets[skip + size :]
    assert len(parts) == 3
    return parts[0], parts[1], parts[2]


def test_a_good_signature_gives_payload_signer_and_time(host: Owner, signed: bytes) -> None:
    """A signed object yields its payload, the full primary fingerprint and the time of signing."""
    found = verify(signed, host.public_file)
    assert found.payload == PAYLOAD
    assert found.fingerprint == host.fingerprint
    assert found.made >= host.keyring.keys()[0].created


@settings(max_examples=8, deadline=None)
@given(st.binary(max_size=30_000))
def test_any_payload_comes_back(host: Owner, data: bytes) -> None:
    """Whatever bytes are signed, verification gives exactly these, long lines and line ends included."""
    assert verify(host.keyring.sign(data, host.fingerprint), host.public_file).payload == data


def test_a_line_longer_than_gpg_can_clear_sign(host: Owner) -> None:
    """A line of a million bytes, which clear-signing truncates silently, is signed as it is."""
    data = b"x" * 1_000_000
    assert verify(host.keyring.sign(data, host.fingerprint), host.public_file).payload == data


def test_a_stranger_is_named(host: Owner, recipient: Owner, signed: bytes) -> None:
    """A signature by a key outside the key ring is refused with that key's fingerprint."""
    with pytest.raises(UnknownSigner) as caught:
        verify(signed, recipient.public_file)
    assert caught.value.unknown_signer == host.fingerprint
    assert host.fingerprint in str(caught.value)


def test_every_flipped_byte_is_refused_or_harmless(host: Owner, signed: bytes) -> None:
    """A flipped bit anywhere gives Forged or, in what is not signed, the same payload and signer."""

    def judge(position: int) -> bool:
        flipped = bytearray(signed)
        flipped[position] ^= 1 << position % 8
        try:
            found = verify(bytes(flipped), host.public_file)
        except Forged:
            return True
        return (found.payload, found.fingerprint) == (PAYLOAD, host.fingerprint)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(judge, range(len(signed))))


def test_a_changed_payload_is_forged(host: Owner, signed: bytes) -> None:
    """A payload changed inside a well-formed message is refused."""
    with pytest.raises(Forged) as caught:
        verify(deflated(inflated(signed).replace(b'"sequence": 7', b'"sequence": 8')), host.public_file)
    assert not isinstance(caught.value, UnknownSigner)


def test_every_truncation_is_refused(host: Owner, signed: bytes) -> None:
    """No proper beginning of a signed object verifies."""
    for size in range(len(signed)):
        with pytest.raises(Forged):
            verify(signed[:size], host.public_file)


def test_other_compression_is_accepted(host: Owner, signed: bytes) -> None:
    """The same packets uncompressed or by ZLIB verify as well."""
    packets = inflated(signed)
    for form in (packets, b"\xa3\x02" + zlib.compress(packets), b"\xa3\x00" + packets):
        assert verify(form, host.public_file).payload == PAYLOAD


def test_nothing_may_follow_although_gpgv_would_not_see_it(host: Owner, signed: bytes) -> None:
    """Bytes after the object, or inside after the signature, are refused: gpgv itself exits 0 on them."""
    packets = inflated(signed)
    for form in (signed + b"x", signed + signed, deflated(packets + b"\xb0"), packets + packets, packets + b"\0"):
        with pytest.raises(Damaged):
            verify(form, host.public_file)


def test_several_literals_are_refused(host: Owner, signed: bytes) -> None:
    """A second literal before, between or after is refused."""
    once, literal, signature = split(inflated(signed))
    for parts in ((literal, once, literal, signature), (once, literal, literal, signature)):
        with pytest.raises(Damaged):
            verify(b"".join(parts), host.public_file)


def test_an_unsigned_literal_is_refused(host: Owner, signed: bytes) -> None:
    """A literal without a signature, which gpg -d prints with exit code 0, is refused."""
    _once, literal, _signature = split(inflated(signed))
    for form in (literal, deflated(literal), raw_gpg(host.home, "--store", data=PAYLOAD)):
        with pytest.raises(Damaged):
            verify(form, host.public_file)


def test_two_signatures_are_refused(host: Owner, recipient: Owner, tmp_path: Path) -> None:
    """A message signed by two keys is refused, even when both are known."""
    both = host.keyring.export_secret(host.fingerprint) + recipient.keyring.export_secret(recipient.fingerprint)
    raw_gpg(home := private_folder(tmp_path / "both"), "--import", data=both)
    message = raw_gpg(home, "-u", host.fingerprint, "-u", recipient.fingerprint, "--sign", data=PAYLOAD)
    public = host.keyring.export_public([host.fingerprint]) + recipient.keyring.export_public([recipient.fingerprint])
    write_public_keyring(public, tmp_path / "both.pub")
    verify(host.keyring.sign(PAYLOAD, host.fingerprint), tmp_path / "both.pub")
    with pytest.raises(Damaged):
        verify(message, tmp_path / "both.pub")
    stop_agent(home)


@pytest.mark.parametrize("form", ["--clearsign", "--detach-sign", "--armor --sign", "--textmode --sign"])
def test_other_forms_of_signature_are_refused(host: Owner, form: str) -> None:
    """Clear-signed, detached, armored and text-mode signatures by the right key are refused."""
    with pytest.raises(Forged):
        verify(raw_gpg(host.home, *form.split(), data=PAYLOAD), host.public_file)


def test_a_weak_hash_is_refused(host: Owner) -> None:
    """A signature by SHA-1, which gpgv still accepts for data, is refused."""
    rsa = raw_gpg(host.home, "--digest-algo", "SHA1", "--sign", data=PAYLOAD)
    with pytest.raises(Forged):
        verify(rsa, host.public_file)


def test_a_signature_that_expires_is_refused(host: Owner) -> None:
    """A signature with an end date is refused: a manifest must not cease to be one."""
    with pytest.raises(Forged):
        verify(raw_gpg(host.home, "--default-sig-expire", "1y", "--sign", data=PAYLOAD), host.public_file)


def test_an_expired_key_is_good_for_what_it_signed_before(tmp_path: Path) -> None:
    """What a key signed before it expired verifies; what it signed on or after that day does not."""
    home = private_folder(tmp_path / "old")
    fingerprint = dated_key(home, "old", "20200101", "1y")
    write_public_keyring(raw_gpg(home, "--armor", "--export", fingerprint), tmp_path / "old.pub")
    before = raw_gpg(home, "--faked-system-time", "20201101T000000!", "-u", fingerprint, "--sign", data=PAYLOAD)
    assert verify(before, tmp_path / "old.pub").made == 1604188800
    # gpg signs with an expired key only if it takes it for unexpired: prolong it where it signs, not where it is read.
    raw_gpg(home, "--quick-set-expire", fingerprint, "0", secret=b"")
    after = raw_gpg(home, "--faked-system-time", "20210201T000000!", "-u", fingerprint, "--sign", data=PAYLOAD)
    with pytest.raises(Forged, match="expired"):
        verify(after, tmp_path / "old.pub")
    stop_agent(home)


def test_the_clock_of_the_reader_does_not_matter(tmp_path: Path) -> None:
    """A signature that lies in this machine's future verifies: its clock may be wrong on the day of a recovery."""
    home = private_folder(tmp_path / "future")
    fingerprint = dated_key(home, "future", "20900101", "never")
    write_public_keyring(raw_gpg(home, "--armor", "--export", fingerprint), tmp_path / "future.pub")
    message = raw_gpg(home, "--faked-system-time", "20900601T000000!", "-u", fingerprint, "--sign", data=PAYLOAD)
    assert verify(message, tmp_path / "future.pub").made == 3799958400
    stop_agent(home)


def test_a_revoked_signer_is_refused(tmp_path: Path) -> None:
    """A signature by a key that its owner revoked is refused."""
    home = private_folder(tmp_path / "revoked")
    fingerprint = dated_key(home, "revoked", "20200101", "never")
    message = raw_gpg(home, "-u", fingerprint, "--sign", data=PAYLOAD)
    _revoke(home, fingerprint)
    write_public_keyring(raw_gpg(home, "--armor", "--export", fingerprint), tmp_path / "revoked.pub")
    with pytest.raises(Forged):
        verify(message, tmp_path / "revoked.pub")
    stop_agent(home)


def test_a_small_object_cannot_fill_the_memory(host: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed object that would grow beyond the limit is refused before it has grown."""
    monkeypatch.setattr(sys.modules[verify_function.__module__], "SIGNED_LIMIT", 1 << 20)
    message = host.keyring.sign(bytes(1 << 21), host.fingerprint)
    assert len(message) < 10_000
    with pytest.raises(Damaged, match="less than"):
        verify(message, host.public_file)


def test_a_missing_key_ring_is_not_a_forgery(signed: bytes, tmp_path: Path) -> None:
    """Without the file of public keys nobody is accused of forging."""
    with pytest.raises(OpskitError) as caught:
        verify(signed, tmp_path / "absent")
    assert not isinstance(caught.value, Forged)


def test_no_home_folder_is_made(host: Owner, signed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification leaves nothing in the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    verify(signed, host.public_file)
    assert list(tmp_path.iterdir()) == []


def test_the_key_ring_file_is_private_and_replaced_whole(host: Owner, recipient: Owner, tmp_path: Path) -> None:
    """The key ring file is 0600, replaced in one step, and nothing else is left beside it."""
    target = tmp_path / "signers.gpg"
    write_public_keyring(recipient.keyring.export_public([recipient.fingerprint]), target)
    write_public_keyring(host.keyring.export_public([host.fingerprint]), target)
    assert target.read_bytes() == host.public_file.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["signers.gpg"]


def test_the_key_ring_takes_only_public_keys(host: Owner, tmp_path: Path) -> None:
    """A private key, or anything else, does not get into the key ring file."""
    with pytest.raises(UsageError):
        write_public_keyring(host.keyring.export_secret(host.fingerprint), tmp_path / "signers.gpg")
    for junk in (b"junk", host.keyring.export_public([host.fingerprint]).replace(b"\n\nm", b"\n\n!")):
        with pytest.raises(Damaged):
            write_public_keyring(junk, tmp_path / "signers.gpg")
    assert list(tmp_path.iterdir()) == []


def _revoke(home: Path, fingerprint: str) -> None:
    # gpg writes a revocation for every new key, with a colon that keeps it from being imported by accident.
    text = (home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_bytes()
    raw_gpg(home, "--import", data=text.replace(b":-----BEGIN", b"-----BEGIN"))
