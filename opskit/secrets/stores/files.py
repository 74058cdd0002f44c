"""`file:///path` and `cred://NAME`: a secret that is the content of a file.

One trailing newline is stripped unless `?raw=1`. What was checked is what is read: every check is made on
the opened file. A secret file which others may read is refused, like ssh does. Symbolic links are followed,
for that is how secrets are mounted into containers.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

from opskit.errors import UnresolvedReference
from opskit.secrets.reference import Reference, Secret, refuse_unknown_parts

MAX_BYTES = 1024 * 1024


class FileScheme:
    """Scheme `file`: a file that only its owner can access."""

    def resolve(self, reference: Reference) -> Secret:
        """The file's content. Raises UnresolvedReference when it is absent, unsafe or too large."""
        path = reference.locator
        if not path.startswith("/"):
            raise UnresolvedReference(
                f"{reference} is malformed: expected an absolute path, as in file:///etc/opskit/secret"
            )
        return _read(reference, path, forbidden=0o077)


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
    try:
        content = _checked_content(reference, path, forbidden)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise UnresolvedReference(
            f"{reference} cannot be resolved: expected a readable file, got: {(reason or 'error').lower()}",
            hint="create the file with mode 0600, owned by the user who runs opskit",
        ) from error
    return Secret(content if raw == "1" else _without_newline(content))


def _checked_content(reference: Reference, path: str, forbidden: int) -> bytes:
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _refuse_unsafe(reference, os.fstat(descriptor), forbidden)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise UnresolvedReference(f"{reference} is too large: expected a secret of at most 1 MiB")
    return content


def _refuse_unsafe(reference: Reference, status: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnresolvedReference(f"{reference} is not a regular file: expected one, got {_kind(status.st_mode)}")
    if status.st_mode & forbidden:
        mode = stat.S_IMODE(status.st_mode)
        raise UnresolvedReference(
            f"{reference} is open to others: expected mode 0600, got {mode:04o}", hint="chmod 600 the file"
        )
    if status.st_uid not in {0, os.geteuid()}:
        raise UnresolvedReference(
            f"{reference} belongs to another user: expected uid {os.geteuid()} or root, got uid {status.st_uid}",
            hint="chown the file to the user who runs opskit",
        )


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


def _without_newline(content: bytes) -> bytes:
    if content.endswith(b"\r\n"):
        return content[:-2]
    return content.removesuffix(b"\n")
