"""A private key with its certificates, by cryptography: made, read, and judged before anybody is given it.

Invariants: no exception holds a key, or what was read as one. What a CA signed is believed only as far as it was
checked: it is of our key, for all the names, valid now and long enough, and each certificate is signed by the next.
Whether clients trust the last one is not known here.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from opskit.errors import ProgramMissing, TargetRefused
from opskit.secrets.reference import Secret

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.DOTALL)
_SKEW = timedelta(minutes=5)
"""By which a CA's clock may be ahead of ours."""


@dataclass(frozen=True)
class Pair:
    """The two files of a server, and the SHA-256 of the certificate that it shows."""

    key: bytes
    chain: bytes
    fingerprint: str

    def __repr__(self) -> str:
        return f"Pair({self.fingerprint})"


def pair_of(secret: Secret) -> Pair:
    """The parts of a value; raises TargetRefused where it is not one key with its certificates."""
    data = secret.reveal_bytes()
    blocks = [(found[1], found[0] + b"\n") for found in _BLOCK.finditer(data)]
    keys = [block for kind, block in blocks if kind.endswith(b"PRIVATE KEY")]
    certificates = [block for kind, block in blocks if kind == b"CERTIFICATE"]
    if len(keys) != 1 or not certificates or not _belong(keys[0], certificates[0]):
        raise TargetRefused(
            "the value in the store has another shape: expected a private key without passphrase in PEM form, "
            "and after it its certificate and those of the CA",
            hint="set it once by hand, as it is in use now: opskit secrets set REFERENCE",
        )
    der = _cryptography().x509.load_pem_x509_certificate(certificates[0]).public_bytes(_cryptography().der)
    return Pair(keys[0], b"".join(certificates), hashlib.sha256(der).hexdigest())


def new_key() -> bytes:
    """A key on the curve P-256, in PEM form."""
    tools = _cryptography()
    key: bytes = tools.ec.generate_private_key(tools.ec.SECP256R1()).private_bytes(
        tools.pem, tools.serialization.PrivateFormat.PKCS8, tools.serialization.NoEncryption()
    )
    return key


def request(key: bytes, subject: str, names: Sequence[str]) -> bytes:
    """What a CA is asked to sign, in PEM form: the subject's common name ("" for none) and the names of the server."""
    tools = _cryptography()
    common = [tools.x509.NameAttribute(tools.x509.NameOID.COMMON_NAME, subject)] if subject else []
    builder = tools.x509.CertificateSigningRequestBuilder().subject_name(tools.x509.Name(common))
    builder = builder.add_extension(
        tools.x509.SubjectAlternativeName([_general(tools, name) for name in names]), critical=not subject
    )
    signed: bytes = builder.sign(_private(key), tools.hashes.SHA256()).public_bytes(tools.pem)
    return signed


def judged(key: bytes, answer: bytes, names: Sequence[str], now: float, days: float) -> Secret:
    """The value made of a key and what a CA answered; raises TargetRefused, saying what is wrong with that."""
    tools = _cryptography()
    chain = b"".join(found[0] + b"\n" for found in _BLOCK.finditer(answer) if found[1] == b"CERTIFICATE")
    try:
        certificates = tools.x509.load_pem_x509_certificates(chain)
        problem = _problem(tools, key, certificates, names, datetime.fromtimestamp(now, UTC), timedelta(days=days))
    except ValueError:
        problem = "expected certificates in PEM form, got other text"
    if problem is not None:
        raise TargetRefused(f"the CA's certificate cannot be used: {problem}", hint="look at the command of the CA")
    return Secret(key + chain)


def _problem(
    tools: Any, key: bytes, certificates: Sequence[Any], names: Sequence[str], now: datetime, left: timedelta
) -> str | None:
    leaf = certificates[0]
    if _public(leaf) != _public(_private(key)):
        return "expected one for the new key first, got one for another"
    lacking = [name for name in names if _general(tools, name) not in _names(tools, leaf)]
    if lacking:
        return f"expected the names {', '.join(names)}, {', '.join(lacking)} not among its own"
    for each in certificates:
        begin, end = each.not_valid_before_utc, each.not_valid_after_utc
        if not begin - _SKEW <= now < end - left:
            return f"expected it to be valid now and for {left.days} days, got one from {begin} to {end}"
    for each, issuer in pairwise(certificates):
        if not _is_issued_by(tools, each, issuer):
            return "expected each certificate to be signed by the next, got another order"
    return None


def _names(tools: Any, certificate: Any) -> list[Any]:
    try:
        return list(certificate.extensions.get_extension_for_class(tools.x509.SubjectAlternativeName).value)
    except tools.x509.ExtensionNotFound:
        return []


def _general(tools: Any, name: str) -> Any:
    try:
        return tools.x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return tools.x509.DNSName(name)


def _is_issued_by(tools: Any, certificate: Any, issuer: Any) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, tools.InvalidSignature):
        return False
    return True


def _belong(key: bytes, certificate: bytes) -> bool:
    try:
        return _public(_private(key)) == _public(_cryptography().x509.load_pem_x509_certificate(certificate))
    except ProgramMissing:
        raise
    except Exception:  # of many kinds, of which none may be shown: ValueError, TypeError, UnsupportedAlgorithm, …
        return False


def _private(key: bytes) -> Any:
    return _cryptography().serialization.load_pem_private_key(key, None)


def _public(owner: Any) -> bytes:
    tools = _cryptography()
    public: bytes = owner.public_key().public_bytes(tools.der, tools.serialization.PublicFormat.SubjectPublicKeyInfo)
    return public


@dataclass(frozen=True)
class _Tools:
    """The parts of cryptography that are used."""

    x509: Any
    serialization: Any
    hashes: Any
    ec: Any
    InvalidSignature: Any

    @property
    def pem(self) -> Any:
        return self.serialization.Encoding.PEM

    @property
    def der(self) -> Any:
        return self.serialization.Encoding.DER


def _cryptography() -> _Tools:
    try:
        from cryptography import exceptions, x509  # 0.1 s, and an extra
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise ProgramMissing(
            "TLS keys are made by the Python package cryptography: expected it, got none",
            hint="install it beside opskit: pip install 'opskit[tls]'",
        ) from None
    return _Tools(x509, serialization, hashes, ec, exceptions.InvalidSignature)
