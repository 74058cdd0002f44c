"""The recovery-key file: what to keep in the safe to get everything back with any one copy.

It is text. A few header lines say what it belongs to; then follow, ASCII-armored, the private key and the public keys
of signers and maintainers. `gpg --import FILE` takes it as it is: gpg skips what stands before an armor.

Invariants: what `encode` writes, `decode` reads back; a bare armored private key, as `gpg --export-secret-keys
--armor` writes it, is a recovery-key file too, with nothing known beside the key. Byte-exact in docs/format.md.

It deliberately decrypts and checks no key: gpg does, on import.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from opskit.errors import Damaged

TITLE = "opskit recovery key 1"
"""The first line; a later form counts on."""
_ADVICE = (
    "# This file opens the backups named below. Keep it, and a copy on paper, away from the machine that is backed up.",
    "# To restore without opskit: read RECOVER.md in the repository; compare the sum of recover.py with the one below.",
)
_FIELDS = ("repository", "recover.py sha256", "signers", "maintainers")
_ARMOR = re.compile(rb"-----BEGIN PGP (PUBLIC|PRIVATE) KEY BLOCK-----\s.*?-----END PGP \1 KEY BLOCK-----", re.S)
_FINGERPRINT = re.compile("[0-9A-F]{40}|[0-9A-F]{64}")
_SHA256 = re.compile("[0-9a-f]{64}")
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a recovery-key file holds.

    `repository` is its id, `recover_sha256` that of the kit's program; `signers` and `maintainers` are primary
    fingerprints (upper-case hex); `secret` and `public` are ASCII-armored keys.
    """

    repository: str | None
    recover_sha256: str | None
    signers: Sequence[str]
    maintainers: Sequence[str]
    secret: bytes = field(repr=False)
    public: bytes


def encode(key: KeyFile) -> bytes:
    """The bytes of a recovery-key file. Raises Damaged for values that would not be read back as they are."""
    values = (key.repository, key.recover_sha256, " ".join(key.signers), " ".join(key.maintainers))
    lines = [TITLE, *_ADVICE, *(f"{name}: {value}" for name, value in zip(_FIELDS, values, strict=True) if value)]
    blocks = [block.strip() + b"\n" for block in (key.secret, key.public) if block]
    data = "\n".join(lines).encode() + b"\n\n" + b"\n".join(blocks)
    written = decode(data)
    names = (written.repository, written.recover_sha256, " ".join(written.signers), " ".join(written.maintainers))
    if names != values:
        raise Damaged("expected values that a recovery-key file can hold, got others")
    return data


def decode(data: bytes) -> KeyFile:
    """Read a recovery-key file or a bare armored private key; raises Damaged, never showing what is in it."""
    if len(data) > _LARGEST:
        raise Damaged(f"expected a recovery-key file, got {len(data)} bytes")
    secret = _blocks(data, b"PRIVATE")
    if not secret:
        raise Damaged(
            "expected a recovery-key file, got one without a private key",
            hint="opskit init wrote it; `gpg --armor --export-secret-keys` makes one too",
        )
    fields = _fields(data.partition(b"-----BEGIN")[0])
    return KeyFile(
        fields.get("repository"),
        _checked(fields.get("recover.py sha256"), _SHA256),
        [str(_checked(each, _FINGERPRINT)) for each in fields.get("signers", "").split()],
        [str(_checked(each, _FINGERPRINT)) for each in fields.get("maintainers", "").split()],
        secret,
        _blocks(data, b"PUBLIC"),
    )


def _fields(head: bytes) -> dict[str, str]:
    """The values of the header lines; nothing where the title is not there."""
    lines = [line.strip() for line in head.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines or not lines[0].startswith("opskit recovery key"):
        return {}
    if lines[0] != TITLE:
        raise Damaged(f"expected {TITLE!r}, got {lines[0][:40]!r}", hint="a newer opskit wrote this; upgrade")
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}


def _checked(value: str | None, form: re.Pattern[str]) -> str | None:
    if value is not None and not form.fullmatch(value):
        raise Damaged(f"recovery-key file: expected a value of the form {form.pattern}, got another")
    return value


def _blocks(data: bytes, kind: bytes) -> bytes:
    """All armored blocks of a kind, each ending in a line end."""
    return b"".join(match[0].strip() + b"\n" for match in _ARMOR.finditer(data) if match[1] == kind)
