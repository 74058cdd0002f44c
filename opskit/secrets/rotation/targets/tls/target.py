"""TLS keys of servers on this machine. The value is PEM text: the private key, its certificate, those of the CA.

The CA is a command of the user's: it gets a request for a certificate on its standard input, and writes the certificate
and those between it and the root to its standard output. What it writes is judged before it is believed.

A server shows one certificate, so a new one takes the place of the old one (`keeps_old` is False), though that stays
valid until it ends. A value is accepted where every endpoint shows its certificate: the endpoint is asked, as files can
be new while the server still has the old ones. Nothing is revoked at the CA: that is for keys that were stolen.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opskit.errors import TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import TIMEOUT
from opskit.secrets.rotation.commands import Programs
from opskit.secrets.rotation.targets.tls import certificates, versions
from opskit.secrets.rotation.targets.tls.certificates import Pair


@dataclass(frozen=True)
class Endpoint:
    """Where a server shows the certificate; it must speak TLS at once, without STARTTLS."""

    host: str
    port: int = 443
    server_name: str | None = None
    """What is asked for by SNI; None: the host."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class TlsSettings:
    """What certificate is wanted, who signs it, where the server reads it and shows it."""

    folder: Path
    """It must be there. The server is told to read current/privkey.pem and current/fullchain.pem in it."""
    names: tuple[str, ...]
    """The server's DNS names and addresses; a certificate must be for all of them, in these very words."""
    ca: tuple[str, ...]
    """The command (argv) that signs: request on stdin, certificates on stdout."""
    reload: tuple[str, ...]
    """The command (argv) that has the server read its files again."""
    endpoints: tuple[Endpoint, ...]
    """All must show the new certificate; at least one."""
    subject: str = ""
    """The common name that is asked for; "" for none, as names stand in their own list today."""
    days: float = 1.0
    """For which a new certificate must be valid, at least."""
    ca_timeout: float = 300.0
    """Seconds; an ACME client waits for the DNS."""
    reload_timeout: float = 60.0
    """Seconds."""


class TlsKeys:
    """The key and certificate in use by the servers of one folder."""

    keeps_old = False

    def __init__(self, settings: TlsSettings, programs: Programs, now: Callable[[], float]) -> None:
        self._settings, self._programs, self._now = settings, programs, now

    def create(self, current: Secret | None, since: float) -> Secret:
        """A new key with a certificate of the CA; TargetRefused where that cannot be used."""
        del current, since
        settings = self._settings
        key = certificates.new_key()
        request = certificates.request(key, settings.subject, settings.names)
        answer = self._programs.run(settings.ca, None, stdin=Secret(request), timeout=settings.ca_timeout)
        if not answer.is_good:
            raise TargetError(f"the CA gave no certificate: {answer}", hint="run the command of the CA by hand")
        return certificates.judged(key, answer.output, settings.names, self._now(), settings.days)

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Switch the files and have the server read them; TargetRefused where they are as they were."""
        del current
        pair = certificates.pair_of(secret)
        try:
            versions.switch(self._settings.folder, _name(pair), pair.key, pair.chain)
        except OSError as error:
            kind = TargetError if self._is_linked(pair) else TargetRefused
            raise kind(f"{self._settings.folder} cannot be changed: {_reason(error)}") from error
        # Not tied to the rotation: it may start a server that stays.
        settings = self._settings
        answer = self._programs.run(settings.reload, None, timeout=settings.reload_timeout, tied=False)
        if not answer.is_good:
            raise TargetError(
                f"the files in {self._settings.folder} are the new ones, and the server did not take them: {answer}",
                hint="run the command that reloads by hand",
            )

    def verify(self, secret: Secret) -> bool:
        """Whether every endpoint shows this certificate; one that shows another decides, whatever the others say."""
        pair = certificates.pair_of(secret)
        failures = [] if self._settings.endpoints else ["no endpoint at all"]
        for endpoint in self._settings.endpoints:
            try:
                if _shown_at(endpoint) != pair.fingerprint:
                    return False
            except OSError as error:  # ssl.SSLError and TimeoutError among them
                failures.append(f"{endpoint} ({type(error).__name__})")
        if failures:
            raise TargetError(f"expected a certificate from each endpoint, got none from {', '.join(failures)}")
        return True

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Remove the files of the value, if it is final."""
        pair = certificates.pair_of(secret)
        name = _name(pair)
        if not final:
            return
        if name == _name(certificates.pair_of(kept)) or self._is_linked(pair):
            raise TargetRefused(f"{self._settings.folder} has version {name} in use: nothing was removed")
        try:
            versions.remove(self._settings.folder, name)
        except OSError as error:
            raise TargetError(f"{self._settings.folder}: version {name} remains: {_reason(error)}") from error

    def _is_linked(self, pair: Pair) -> bool:
        """Whether its files are those in use, as far as that can be excluded."""
        try:
            return versions.is_current(self._settings.folder, _name(pair))
        except OSError:
            return True


def _name(pair: Pair) -> str:
    return pair.fingerprint[:16]


def _shown_at(endpoint: Endpoint) -> str:
    """The SHA-256 of the certificate that is shown there; the handshake proves that the key is there too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the very certificate is compared, which says more than any trust in its CA
    with socket.create_connection((endpoint.host, endpoint.port), TIMEOUT) as plain:
        with context.wrap_socket(plain, server_hostname=endpoint.server_name or endpoint.host) as secured:
            return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()


def _reason(error: OSError) -> str:
    return (error.strerror or "error").lower()
