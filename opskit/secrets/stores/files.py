"""`file:///path` and `cred://NAME`: a secret that is the content of a file.

One trailing newline is stripped unless `?raw=1`. Which files are refused stands in module `private`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from opskit.errors import UnresolvedReference
from opskit.secrets.private import OTHERS, read_private
from opskit.secrets.reference import Reference, Secret, refuse_unknown_parts


class FileScheme:
    """Scheme `file`: a file that only its owner can access."""

    def resolve(self, reference: Reference) -> Secret:
        """The file's content. Raises UnresolvedReference when it is absent, unsafe or too large."""
        path = reference.locator
        if not path.startswith("/"):
            raise UnresolvedReference(
                f"{reference} is malformed: expected an absolute path, as in file:///etc/opskit/secret"
            )
        return _read(reference, path, forbidden=OTHERS)


class CredentialScheme:
    """Scheme `cred`: a systemd credential, a file in $CREDENTIALS_DIRECTORY."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def resolve(self, reference: Reference) -> Secret:
        """The credential's content. Raises UnresolvedReference outside a unit that was given it."""
        name = reference.locator
        if not re.fullmatch(r"[^/\x00]+", name) or name in {".", ".."}:
            raise UnresolvedReference(f"{reference} is malformed: expected the name of a credential, without '/'")
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise UnresolvedReference(
                f"{reference} cannot be resolved: expected $CREDENTIALS_DIRECTORY, it is not set",
                hint=f"run opskit from a systemd unit with LoadCredentialEncrypted={name}",
            )
        # For a unit with User=, systemd grants access by ACL, whose mask shows as group bits.
        return _read(reference, os.path.join(folder, name), forbidden=0o007)


def _read(reference: Reference, path: str, *, forbidden: int) -> Secret:
    refuse_unknown_parts(reference, options=("raw",))
    raw = reference.option("raw")
    if raw not in {None, "0", "1"}:
        raise UnresolvedReference(f"{reference} is malformed: expected raw=0 or raw=1")
    content = read_private(reference, path, forbidden)
    return Secret(content if raw == "1" else _without_newline(content))


def _without_newline(content: bytes) -> bytes:
    if content.endswith(b"\r\n"):
        return content[:-2]
    return content.removesuffix(b"\n")
