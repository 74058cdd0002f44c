"""`gpg:///path/file.gpg#name`: secrets in a file that gpg encrypted, the store that needs nothing but gpg.

The file is one OpenPGP message; inside is JSON: {"opskit": "secrets", "secrets": {NAME: {STAGE: TEXT, …}, …}}. Without
`#name` the whole content is the secret, of any file that somebody encrypted (read only, one trailing newline stripped).

Invariants: a file that others may read or write is refused, encrypted or not: who can put another there chooses the
secrets. It is replaced whole (temporary file, fsync, rename) by one process at a time. To whom it is encrypted, and
whose key opens it, is the caller's to say; a smartcard or HSM behind gpg-agent is as good as a key in a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opskit.errors import OpskitError, SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.base import Stage
from opskit.secrets.private import read_private
from opskit.secrets.reference import Reference, Secret

_KIND = "secrets"
LARGEST = 16 * 1024 * 1024
"""Bytes of a file; a larger one is neither written nor read."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the store is given. All raise OpskitError.

    `open` gives the text of the message of a file, `seal` makes one, `replace` writes a file durably, and `alone` keeps
    other writers from it meanwhile.
    """

    open: Callable[[Path, bytes], bytes]
    seal: Callable[[bytes], bytes]
    replace: Callable[[Path, bytes], None]
    alone: Callable[[Path], AbstractContextManager[None]]


Secrets = dict[str, dict[str, str]]
"""By name and stage."""


class GpgFileStore:
    """Keeps secrets in encrypted files; a reference names the file and the secret in it."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def get(self, reference: Reference, stage: Stage) -> Secret:
        """The value in a stage, or the whole content where the reference names no secret of the file."""
        path = _path(reference)
        if reference.field is None:
            if stage is not Stage.CURRENT:
                raise UnresolvedReference(f"{reference} has no stages: expected '#name', one secret of the file")
            return Secret(self._content(reference, path).removesuffix(b"\n"))
        value = self._secrets(reference, path).get(reference.field, {}).get(stage)
        if value is None:
            found = "the file has none" if os.path.lexists(path) else "there is no such file"
            raise SecretAbsent(
                f"{reference} cannot be resolved: expected a {stage} value of a secret of that name, {found}",
                hint=f"opskit secrets set '{reference}'" if stage is Stage.CURRENT else None,
            )
        return Secret(value)

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        """Keep a value in a stage; a file that is not there is made."""
        text = secret.reveal()

        def change(stages: dict[str, str]) -> None:
            stages[stage] = text

        self._change(reference, change)

    def promote(self, reference: Reference) -> None:
        """Pending becomes current, current becomes previous, in one replacement of the file."""

        def change(stages: dict[str, str]) -> None:
            if Stage.PENDING not in stages:
                raise SecretAbsent(f"{reference} has no pending value to be made the current one")
            pending = stages.pop(Stage.PENDING)
            if stages.get(Stage.CURRENT, pending) != pending:
                stages[Stage.PREVIOUS] = stages[Stage.CURRENT]
            stages[Stage.CURRENT] = pending

        self._change(reference, change)

    def delete(self, reference: Reference, stage: Stage) -> None:
        """Forget the value in a stage; a secret without any value leaves the file."""

        def change(stages: dict[str, str]) -> None:
            stages.pop(stage, None)

        if stage in self._secrets(reference, _path(reference)).get(_name(reference), {}):
            self._change(reference, change)

    def names(self, reference: Reference) -> dict[str, list[str]]:
        """The secrets of a file, each with the stages in which it has a value; of a file that is not there none."""
        return {name: sorted(stages) for name, stages in sorted(self._secrets(reference, _path(reference)).items())}

    def _change(self, reference: Reference, change: Callable[[dict[str, str]], None]) -> None:
        path, name = _path(reference), _name(reference)
        with self._tools.alone(path):
            secrets = self._secrets(reference, path)
            stages = secrets.setdefault(name, {})
            change(stages)
            if not stages:
                del secrets[name]
            self._replace(path, json.dumps({"opskit": _KIND, "secrets": secrets}, indent=1).encode() + b"\n")

    def _replace(self, path: Path, content: bytes) -> None:
        """Write a file anew, once it is certain that it opens here: else nobody could read or change it any more."""
        message = self._tools.seal(content)
        try:
            opened = self._tools.open(path, message)
        except OpskitError as error:
            raise SecretStoreError(f"no key at hand would open {path} again: {error}", hint=error.hint) from error
        if opened != content:
            raise SecretStoreError(f"{path} was left as it is: what gpg encrypted does not open to what it was given")
        if len(message) > LARGEST:
            raise SecretStoreError(
                f"{path} was left as it is: expected at most {LARGEST:,} bytes of secrets, got {len(message):,}",
                hint="keep some in another file",
            )
        self._tools.replace(path, message)

    def _secrets(self, reference: Reference, path: Path) -> Secrets:
        """What the file holds; nothing where there is none yet."""
        if not os.path.lexists(path):
            return {}
        content = self._content(reference, path)
        try:
            return _secrets_in(json.loads(content))
        except (ValueError, LookupError, TypeError, AttributeError):
            # `from None`: the cause would carry the text.
            raise SecretStoreError(
                f"{path} is no secrets file of opskit: expected the JSON that opskit secrets set writes",
                hint="leave out '#name' to take the whole content as the secret",
            ) from None

    def _content(self, reference: Reference, path: Path) -> bytes:
        data = read_private(reference, str(path), limit=LARGEST)
        try:
            return self._tools.open(path, data)
        except OpskitError as error:
            raise SecretStoreError(f"{path} cannot be opened: {error}", hint=error.hint) from error


def _secrets_in(document: Any) -> Secrets:
    """What a file says; raises ValueError, LookupError, TypeError or AttributeError for anything unexpected."""
    if set(document) != {"opskit", "secrets"} or document["opskit"] != _KIND:
        raise ValueError
    secrets = document["secrets"]
    for name, stages in secrets.items():
        if not set(stages) <= set(Stage) or not all(isinstance(each, str) for each in (name, *stages.values())):
            raise ValueError
    return {str(name): dict(stages) for name, stages in secrets.items()}


def _path(reference: Reference) -> Path:
    if not reference.locator.startswith("/"):
        raise UnresolvedReference(
            f"{reference} is malformed: expected an absolute path, as in gpg:///etc/opskit/secrets.gpg#name"
        )
    if reference.options:
        raise UnresolvedReference(f"{reference} has an unknown option: expected stage, got '{reference.options[0][0]}'")
    # Links are followed once, here: a file must be replaced where it is read, and its key lies beside it there.
    return Path(os.path.realpath(reference.locator))


def _name(reference: Reference) -> str:
    if reference.field is None:
        raise UnresolvedReference(f"{reference} names a whole file, which is only read: expected '#name' at its end")
    return reference.field
