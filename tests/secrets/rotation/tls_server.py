"""TLS for tests: a CA of two levels, and a server that takes its files from a folder when it is told to.

Run as a program it is the CA's command: `tls_server.py FOLDER MODE`, a request on stdin, the certificates on stdout.
The modes other than "good" are what a CA may do wrong.
"""

from __future__ import annotations

import atexit
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAMES = ("app.example.org", "*.app.example.org", "127.0.0.1")
PEM = serialization.Encoding.PEM
MIDDLE_KEY, MIDDLE, ROOT = "middle.key", "middle.pem", "root.pem"


@cache
def authority() -> Path:
    """The folder of the CA of this test session."""
    temporary = TemporaryDirectory(prefix="opskit-ca-")
    atexit.register(temporary.cleanup)
    folder = Path(temporary.name)
    root, middle = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (folder / ROOT).write_bytes(_certificate("root", root.public_key(), "root", root).public_bytes(PEM))
    (folder / MIDDLE).write_bytes(_certificate("middle", middle.public_key(), "root", root).public_bytes(PEM))
    (folder / MIDDLE_KEY).write_bytes(
        middle.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


def ca(mode: str = "good") -> tuple[str, ...]:
    """The command of that CA."""
    return (sys.executable, __file__, str(authority()), mode)


@dataclass
class Listening:
    """A server, and how it is told to read its files again."""

    folder: Path
    port: int
    reload: tuple[str, ...]


@contextmanager
def listening(folder: Path) -> Iterator[Listening]:
    """A server of the files in `folder`/current, which it reads once the file `folder`/reload is touched."""
    marker = folder / "reload"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, folder / "current", marker))
        thread.start()
        try:
            yield Listening(folder, listener.getsockname()[1], ("touch", str(marker)))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, files: Path, marker: Path) -> None:
    context, seen = None, None
    with suppress(OSError):
        while True:
            plain, _ = listener.accept()
            with plain, suppress(OSError):
                told = marker.stat().st_mtime_ns if marker.exists() else None
                if context is None or told != seen:
                    context, seen = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), told
                    context.load_cert_chain(files / "fullchain.pem", files / "privkey.pem")
                context.wrap_socket(plain, server_side=True).close()


def _certificate(
    subject: str, public: Any, issuer: str, key: Any, *, days: tuple[float, float] = (-1, 90), san: Any = None
) -> x509.Certificate:
    named = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (subject, issuer)]
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(named[1], named[0], public, x509.random_serial_number())
    builder = builder.not_valid_before(now + timedelta(days=days[0])).not_valid_after(now + timedelta(days=days[1]))
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    builder = builder.add_extension(authority, critical=False)
    if subject in ("root", "middle"):  # what clients demand of a CA
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only", "digital_signature"), False,
        )  # fmt: skip
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if san is not None:
        builder = builder.add_extension(san, critical=False)
    return builder.sign(key, hashes.SHA256())


def sign(folder: Path, mode: str) -> None:
    """The program."""
    if mode == "fails":
        sys.stderr.write("the CA is closed today\n")
        raise SystemExit(3)
    if mode == "hangs":
        time.sleep(60)
    asked = x509.load_pem_x509_csr(sys.stdin.buffer.read())
    assert asked.is_signature_valid
    key = serialization.load_pem_private_key((folder / MIDDLE_KEY).read_bytes(), None)
    public = ec.generate_private_key(ec.SECP256R1()).public_key() if mode == "other-key" else asked.public_key()
    san = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if mode == "fewer-names":
        san = x509.SubjectAlternativeName(list(san)[1:])
    days = {"expired": (-9.0, -1.0), "too-early": (1.0, 90.0), "short": (-1.0, 0.5)}.get(mode, (-1.0, 90.0))
    leaf = _certificate("app", public, "middle", key, days=days, san=None if mode == "no-names" else san)
    chain = [leaf.public_bytes(PEM), (folder / MIDDLE).read_bytes(), (folder / ROOT).read_bytes()]
    orders = {"backwards": [1, 0], "gap": [0, 2], "nothing": [], "whole": [0, 1, 2]}
    for at in orders.get(mode, [0, 1]):
        sys.stdout.buffer.write(b"# a certificate\n" + chain[at])


if __name__ == "__main__":
    sign(Path(sys.argv[1]), sys.argv[2])
