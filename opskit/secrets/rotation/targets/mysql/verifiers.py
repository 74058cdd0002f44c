"""What servers keep of a password, computed here, so that none has to be sent: mysql_native_password, caching_sha2.

Sources: MySQL's `sql/auth/sha2_password.cc` for the frame `$A$ROUNDS$SALT DIGEST` (rounds in thousands, hexadecimal; a
salt of 20 characters); Ulrich Drepper, "Unix crypt using SHA-256 and SHA-512", for the digest in it.
"""

from __future__ import annotations

import hashlib
import re
import secrets

from opskit.secrets.rotation.base import LETTERS

NATIVE = "mysql_native_password"
SHA2 = "caching_sha2_password"
_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SALT = 20
_THOUSANDS = 5
"""Of rounds: what all versions take. More would slow down guessing, which is hopeless against what is made here."""
_FRAME = re.compile(rb"\$A\$([0-9A-F]{3})\$(.{20})(.{43})", re.DOTALL)


def verifier(plugin: str, password: bytes) -> str:
    """What a server of that plugin is to keep of a password; with a new salt, where there is one."""
    if plugin == NATIVE:
        return native(password)
    salt = "".join(secrets.choice(LETTERS) for _ in range(_SALT))
    return f"$A${_THOUSANDS:03X}${salt}{_sha256_crypt(password, salt.encode(), _THOUSANDS * 1000)}"


def matches(stored: bytes, password: bytes) -> bool:
    """Whether this is a verifier of that password."""
    if frame := _FRAME.fullmatch(stored):
        return frame[3].decode() == _sha256_crypt(password, frame[2], int(frame[1], 16) * 1000)
    return stored.decode("latin-1") == native(password)


def native(password: bytes) -> str:
    """The verifier of mysql_native_password: SHA-1 twice, without a salt. Whoever has it cannot log in with it."""
    return "*" + hashlib.sha1(hashlib.sha1(password).digest()).hexdigest().upper()


def _sha256_crypt(password: bytes, salt: bytes, rounds: int) -> str:
    """The last part of `$5$`; Python's own `crypt` takes shorter salts only, and is gone from Python 3.13."""
    length = len(password)
    mixed = _sha256(password, salt, password)
    bits = [mixed if length >> bit & 1 else password for bit in range(length.bit_length())]
    digest = _sha256(password, salt, _stretched(mixed, length), *bits)
    of_password = _stretched(_sha256(password * length), length)
    of_salt = _stretched(_sha256(salt * (16 + digest[0])), len(salt))
    for number in range(rounds):
        odd = number & 1
        digest = _sha256(
            of_password if odd else digest,
            of_salt if number % 3 else b"",
            of_password if number % 7 else b"",
            digest if odd else of_password,
        )
    return _shown(digest)


def _sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _stretched(digest: bytes, length: int) -> bytes:
    return (digest * (length // len(digest) + 1))[:length]


def _shown(digest: bytes) -> str:
    """Three bytes as four characters, in the order of the source."""
    triples = [[(first + 21 * step) % 30 for first in (0, 10, 20)] for step in range(10)]
    numbers = [(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in triples]
    numbers.append((digest[31] << 8 | digest[30], 3))
    return "".join(_ALPHABET[number >> 6 * place & 63] for number, places in numbers for place in range(places))
