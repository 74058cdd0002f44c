"""Certificates: evidence by which a signer says which key comes after its own.

Invariants: it is signed by the old key, which says it of itself alone, and it carries the new public key. It makes
nobody believed: whoever reads it decides about that. A certificate proves what the holder of the old key said, and the
holder may be a thief; what that means is argued in docs/design.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from opskit import encoding
from opskit.errors import Damaged, Forged
from opskit.repository import names
from opskit.repository.believing import Judge, Rejected, Verify, listed
from opskit.repository.copy import Copy
from opskit.repository.manifest import check_label, time_of, time_text

SIGNER = "signer"
"""The kind of this evidence."""
_FINGERPRINT_LENGTHS = (40, 64)


@dataclass(frozen=True, slots=True)
class Certificate:
    """That `new` comes after `old` as the key of `host`: primary fingerprints; `public` is the new key, armored."""

    repository: str
    host: str
    created: datetime
    old: str
    new: str
    public: str


def encode(certificate: Certificate) -> bytes:
    """Canonical JSON."""
    return encoding.encode(
        {
            "format": 1,
            "kind": "evidence",
            "evidence": SIGNER,
            "repository": certificate.repository,
            "host": certificate.host,
            "created": time_text(certificate.created),
            "signer": {"old": certificate.old, "new": certificate.new, "public": certificate.public},
        }
    )


def decode(payload: bytes) -> Certificate:
    """Parse a payload; raises Damaged. The signature was checked before."""
    value = encoding.decode_object(payload, what="certificate")
    if (value.get("format"), value.get("kind"), value.get("evidence")) != (1, "evidence", SIGNER):
        raise Damaged("expected a certificate of format 1, got something else")
    try:
        said = value["signer"]
        return Certificate(
            str(value["repository"]),
            check_label(value["host"]),
            time_of(value["created"]),
            _fingerprint(said["old"]),
            _fingerprint(said["new"]),
            str(said["public"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"malformed certificate: {error}") from error


def _fingerprint(value: object) -> str:
    is_one = isinstance(value, str) and len(value) in _FINGERPRINT_LENGTHS and not set(value) - set("0123456789ABCDEF")
    if not is_one:
        raise ValueError(f"expected a fingerprint, got {str(value)[:80]!r}")
    return str(value)


def load_certificates(
    copies: Sequence[Copy], verify: Verify, *, signers: Iterable[str], repository: str
) -> list[Certificate]:
    """The certificates at the copies that one of `signers` made of itself, oldest first; others are left out."""
    judge, rejected = Judge(verify, frozenset(signers), repository), list[Rejected]()
    found = []
    for name, holders in listed(copies, lambda each: each.startswith("evidence/") and f"Z-{SIGNER}-" in each).items():
        certificate = judge.believed(name, holders, partial(_checked, judge), rejected)
        if certificate is not None:
            found.append(certificate)
    return sorted(found, key=lambda each: each.created)


def _checked(judge: Judge, name: str, digest: str, signer: str, payload: bytes) -> Certificate:
    certificate = decode(payload)
    judge.require_repository("a certificate", certificate.repository)
    if name != names.evidence(certificate.created, SIGNER, digest):
        raise Forged(f"a certificate of {certificate.created:%Y-%m-%d %H:%M:%S} stored under another name")
    if certificate.old != signer:
        raise Forged(f"a certificate for the successor of {certificate.old}, made by {signer}")
    return certificate
