"""Checking signed objects with gpgv, against a key ring file and nothing else.

gpgv needs no home folder, agent, lock or trust, so a signature can be checked on a full or read-only disk. The answer
is taken from its status lines: exactly one literal, exactly one valid binary signature by a strong hash. The clock of
this machine is not asked (it may be wrong on the day of a recovery); a key that has expired is accepted for what it
signed before.

It deliberately does not know roles: the caller compares the fingerprint with those who may sign, and `made` with now.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import NamedTuple

from opskit.errors import Damaged, Forged, OpskitError, UsageError
from opskit.gpg.packets import SIGNED, literal_payload, unpack
from opskit.gpg.program import NOWHERE, Finished, run

LARGEST_PAYLOAD = 512 << 20
"""The most bytes a signed object may hold: a small hostile object cannot fill the memory."""

SIGNED_LIMIT = LARGEST_PAYLOAD + (1 << 20)
"""The same with the packets around it (bytes)."""

NOBODY = "nobody"
"""Stands for the signer of what `unjudged` returns; no fingerprint, so it is nobody's role by accident."""

_STRONG_HASHES = frozenset({"8", "9", "10"})  # SHA-256, SHA-384, SHA-512 (RFC 4880, section 9.4)
_BINARY = "00"
_WRONG = ("BADSIG", "ERRSIG", "EXPSIG", "REVKEYSIG")
_PUBLIC_KEY_TAGS = frozenset({0x98, 0x99, 0x9A, 0xC6})
_ARMOR = re.compile(rb"-----BEGIN PGP ([A-Z ]+)-----\r?\n(.*?)-----END PGP \1-----", re.DOTALL)


class Signed(NamedTuple):
    """A checked payload, the primary fingerprint of its signer (40 upper hex), when it was signed (epoch seconds)."""

    payload: bytes
    fingerprint: str
    made: int


class UnknownSigner(Forged):
    """The signature is by a key that is not in the key ring; `unknown_signer` is its fingerprint, else key id."""

    def __init__(self, unknown_signer: str) -> None:
        super().__init__(
            f"signed by an unknown key {unknown_signer}",
            hint="if you trust this key, add it to keys.signers in the config",
        )
        self.unknown_signer = unknown_signer


class RevokedSigner(Forged):
    """The signature is by a key that was revoked: nobody can tell whether before or after."""

    def __init__(self) -> None:
        super().__init__(
            "signed by a key that was revoked",
            hint="a revocation takes effect on what was signed long ago, too: operations.md, 'A key was revoked'",
        )


def verify(data: bytes, keyring: Path) -> Signed:
    """The payload of an object made by `Keyring.sign`, if a key in the file `keyring` signed it.

    Raises UnknownSigner for a signature by a stranger, Damaged for what is not one whole signed message, Forged for
    everything else that is not right (revoked signer, signed after the key expired, weak hash).
    """
    message, packets = unpack(data, limit=SIGNED_LIMIT)
    if [packet.tag for packet in packets] != SIGNED:
        raise Damaged(f"expected one signed text, got packets {[packet.tag for packet in packets][:8]}")
    payload = literal_payload(packets[1])
    if not keyring.is_file():
        raise OpskitError(f"expected a file of signers' public keys, found none at {keyring}")
    options = ["--homedir", NOWHERE, "--keyring", os.path.abspath(keyring), "--ignore-time-conflict", "--output", "-"]
    finished = run("gpgv", options, data=message, output_limit=SIGNED_LIMIT)
    output = finished.read()
    fingerprint, made = _judge(finished)
    if output != payload:
        raise Forged("expected the signed text, got a different one")
    return Signed(payload, fingerprint, made)


def unjudged(data: bytes) -> Signed:
    """The payload of a signed object whoever made it, as signed by `NOBODY`: for comparing hashes without any key.

    Raises Damaged for what is not one whole signed message.
    """
    _, packets = unpack(data, limit=SIGNED_LIMIT)
    if [packet.tag for packet in packets] != SIGNED:
        raise Damaged(f"expected one signed text, got packets {[packet.tag for packet in packets][:8]}")
    return Signed(literal_payload(packets[1]), NOBODY, 0)


def _judge(finished: Finished) -> tuple[str, int]:
    unknown = finished.lines("NO_PUBKEY")
    if unknown:
        raise UnknownSigner(_full_fingerprint(finished) or unknown[0][0])
    if finished.count("REVKEYSIG"):
        raise RevokedSigner
    valid = finished.lines("VALIDSIG")
    single = all(finished.count(word) == 1 for word in ("PLAINTEXT", "NEWSIG", "VALIDSIG"))
    accepted = finished.count("GOODSIG") + finished.count("EXPKEYSIG") == 1
    if finished.code != 0 or not single or not accepted or any(finished.count(word) for word in _WRONG):
        raise Forged(f"the signature does not hold: {finished.last_words()}")
    _fingerprint, _day, made, expires, _version, _reserved, _algorithm, hash_algorithm, kind, primary = valid[0][:10]
    if kind != _BINARY or hash_algorithm not in _STRONG_HASHES or expires != "0":
        raise Forged(f"expected a binary signature by SHA-256 or better, got class {kind}, hash {hash_algorithm}")
    if finished.count("EXPKEYSIG"):
        _require_made_before_expiry(finished, int(made))
    return primary, int(made)


def _require_made_before_expiry(finished: Finished, made: int) -> None:
    ends = [int(line[0]) for line in finished.lines("KEYEXPIRED") if line and line[0].isdigit()]
    if not ends or made >= min(ends):
        raise Forged("signed after the signer's key had expired")


def _full_fingerprint(finished: Finished) -> str | None:
    for line in finished.lines("ERRSIG"):
        if len(line) > 6 and re.fullmatch("[0-9A-F]{40,64}", line[6]):
            return line[6]
    return None


def write_public_keyring(data_armored: bytes, path: Path) -> None:
    """Write public keys (any number of ASCII-armored blocks) as the binary key ring file that `verify` wants.

    The file appears atomically. Raises Damaged when a block does not decode, UsageError for anything but public keys.
    """
    content = b"".join(_dearmored(match[1], match[2]) for match in _ARMOR.finditer(data_armored))
    if data_armored.strip() and not content:
        raise Damaged("expected armored public keys, got something else")
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _dearmored(kind: bytes, text: bytes) -> bytes:
    if kind != b"PUBLIC KEY BLOCK":
        raise UsageError(f"expected armored public keys, got a block of type {kind.decode()!r}")
    lines = [line.strip() for line in text.splitlines()]
    body = lines[lines.index(b"") + 1 :] if b"" in lines else lines
    try:
        raw = base64.b64decode(b"".join(line for line in body if not line.startswith(b"=")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Damaged(f"an armored key does not decode: {error}") from error
    if not raw or raw[0] not in _PUBLIC_KEY_TAGS:
        raise Damaged("expected a public key packet, got something else")
    return raw
