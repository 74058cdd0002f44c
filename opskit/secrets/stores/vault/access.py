"""Where Vault is and who asks, as its own command line takes them from the environment.

Invariants: nothing but https, except to this very machine, for whoever reads the wire has the token; files with a token
or a secret id are read only where nobody else can. VAULT_SKIP_VERIFY is deliberately not honoured.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from opskit.errors import SecretStoreError
from opskit.secrets.private import OTHERS, read_private
from opskit.secrets.reference import Reference

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_IN_A_HEADER = re.compile(r"[!-~]+")
_TOKEN_FILE = ".vault-token"


@dataclass(frozen=True, slots=True)
class Access:
    """What the environment says of Vault; None where it says nothing."""

    address: str | None = None
    token: str | None = field(default=None, repr=False)
    namespace: str | None = None
    ca_file: str | None = None
    role_id: str | None = field(default=None, repr=False)
    secret_id_file: str | None = None
    credentials: str | None = None
    """The folder of systemd's credentials."""
    home: Path | None = None
    """The folder where `vault login` leaves its token."""

    @classmethod
    def of(cls, environ: Mapping[str, str], home: Path | None) -> Access:
        """Read the variables; an empty one counts as none. What they say is judged when it is used."""
        return cls(
            address=environ.get("VAULT_ADDR") or None,
            token=environ.get("VAULT_TOKEN") or None,
            namespace=environ.get("VAULT_NAMESPACE") or None,
            ca_file=environ.get("VAULT_CACERT") or None,
            role_id=environ.get("VAULT_ROLE_ID") or None,
            secret_id_file=environ.get("VAULT_SECRET_ID_FILE") or None,
            credentials=environ.get("CREDENTIALS_DIRECTORY") or None,
            home=home,
        )

    def url(self) -> str:
        """The address, put together anew from its parts, so that no other parser sees another host in it.

        Raises SecretStoreError where there is none, or it is not safe.
        """
        if self.address is None:
            raise SecretStoreError(
                "nothing says where vault is: expected the variable VAULT_ADDR, it is not set",
                hint="export VAULT_ADDR=https://HOST:8200, as for the vault program",
            )
        parts, port = _split(self.address)
        host = parts.hostname or ""
        if parts.scheme == "http" and not _is_loopback(host):
            raise SecretStoreError(
                f"VAULT_ADDR is refused: expected https, got http to {host}: the token would go there in the clear",
                hint="give vault a certificate (VAULT_CACERT names its authority), or use a tunnel to localhost",
            )
        shown = f"[{host}]" if ":" in host else host
        return f"{parts.scheme}://{shown}:{port}{parts.path.rstrip('/')}"

    def headers_are_safe(self) -> None:
        """Raises SecretStoreError for a namespace that cannot be sent."""
        if self.namespace is not None and not _IN_A_HEADER.fullmatch(self.namespace):
            raise SecretStoreError("VAULT_NAMESPACE is malformed: expected the path of a namespace, as in team/app")

    def has_role(self) -> bool:
        """Whether to log in by AppRole."""
        return self.token is None and (self.role_id is not None or self.secret_id_file is not None)

    def role(self) -> tuple[str, str]:
        """The role id and the secret id. Raises SecretStoreError, UnresolvedReference."""
        if self.role_id is None or self.secret_id_file is None:
            raise SecretStoreError(
                "a login by AppRole is half given: expected both VAULT_ROLE_ID and VAULT_SECRET_ID_FILE, got one",
            )
        # For a unit with User=, systemd grants access to credentials by ACL, whose mask shows as group bits.
        is_credential = os.path.dirname(self.secret_id_file) == self.credentials
        secret_id = _private_word(self.secret_id_file, "a secret id", 0o007 if is_credential else OTHERS)
        return _word(self.role_id, "VAULT_ROLE_ID", "a role id"), secret_id

    def ready_token(self) -> str:
        """The token that needs no login. Raises SecretStoreError, UnresolvedReference."""
        if self.token is not None:
            return _word(self.token, "VAULT_TOKEN", "a token")
        if self.home is None or not os.path.isfile(path := self.home / _TOKEN_FILE):
            raise SecretStoreError(
                f"no login to vault: expected VAULT_TOKEN, VAULT_ROLE_ID or the file ~/{_TOKEN_FILE}, got none of them",
                hint="run vault login; on a server: export VAULT_ROLE_ID, and VAULT_SECRET_ID_FILE of mode 0600",
            )
        return _private_word(str(path), "a token")


def _split(address: str) -> tuple[SplitResult, int]:
    expected = "VAULT_ADDR is malformed: expected https://HOST:PORT"
    try:
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise SecretStoreError(expected) from None  # the cause would repeat it, with a password perhaps
    is_plain = parts.username is None and parts.password is None and not parts.query and not parts.fragment
    is_path = re.fullmatch(r"[A-Za-z0-9._/-]*", parts.path) and ".." not in parts.path
    if (
        parts.scheme not in {"http", "https"}
        or not is_plain
        or not is_path
        or not _HOST.fullmatch(parts.hostname or "")
    ):
        raise SecretStoreError(f"{expected}, with no user, query or fragment, got something else")
    return parts, port


def _is_loopback(host: str) -> bool:
    import ipaddress  # here: only those who use vault pay for it

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _private_word(path: str, what: str, forbidden: int = OTHERS) -> str:
    content = read_private(Reference("file", path), path, forbidden)
    return _word(content.decode(errors="replace").strip(), path, what)


def _word(text: str, where: str, what: str) -> str:
    """Refuses what no header can carry: the library would name it in its error."""
    if not _IN_A_HEADER.fullmatch(text):
        raise SecretStoreError(f"{where} is malformed: expected {what}, printable and without blanks")
    return text
