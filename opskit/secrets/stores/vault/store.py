"""Stages of a secret in a KV version 2 secrets engine, which knows versions, and no stages.

The key `db` of a secret is the current value, `db__pending` and `db__previous` beside it are the others: one write
changes them all. Invariants: a write is made from the version that was read, and refused by Vault if another came
between (check-and-set); then it is made anew. The other keys of the secret stay as they are.

What is replaced or deleted here is still in the secret's older versions, as many as the engine keeps. They are
deliberately left alone: they are shared with the other keys, and hold what an undo needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from opskit.errors import SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.base import SUFFIXES, Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.stores.vault.access import Access
from opskit.secrets.stores.vault.server import Data, Server

_ATTEMPTS = 10
"""How often a write is made anew because others wrote."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a reference leads."""

    mount: str
    path: str
    key: str
    version: int | None

    def in_stage(self, stage: Stage) -> str:
        """The key of the value in a stage."""
        return self.key + SUFFIXES[stage]


class VaultStore:
    """Keeps secrets in Vault; a reference names the mount, the secret and the key in it."""

    def __init__(self, access: Access) -> None:
        self._server = Server(access)

    def get(self, reference: Reference, stage: Stage) -> Secret:
        """The value in a stage, of the latest version or of the one that `?version=` names."""
        place = _place(reference) if stage is Stage.CURRENT else _writable(reference)
        data, version = self._server.read(place.mount, place.path, place.version)
        value = data.get(place.in_stage(stage))
        if value is None:
            found = "that secret has no such key" if data else "there is no such secret, or it was deleted"
            raise SecretAbsent(
                f"{reference} cannot be resolved: expected a {stage} value, {found}",
                hint=f"opskit secrets set '{reference}'" if stage is Stage.CURRENT and place.version is None else None,
            )
        if not isinstance(value, str):
            raise SecretStoreError(
                f"{reference} is not text in version {version}: expected a string, got another kind of JSON",
                hint="write it anew as a string; vault kv put does so",
            )
        return Secret(value)

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        """Keep a value in a stage; a secret that is not there is made."""
        place, text = _writable(reference), secret.reveal()

        def change(data: Data) -> None:
            data[place.in_stage(stage)] = text

        self._change(place, change)

    def promote(self, reference: Reference) -> None:
        """Pending becomes current, current becomes previous, in one write."""
        place = _writable(reference)
        pending, current, previous = (place.in_stage(each) for each in Stage)

        def change(data: Data) -> None:
            if pending not in data:
                raise SecretAbsent(f"{reference} has no pending value to be made the current one")
            if current in data:
                data[previous] = data[current]
            data[current] = data.pop(pending)

        self._change(place, change)

    def delete(self, reference: Reference, stage: Stage) -> None:
        """Forget the value in a stage; the secret stays, without keys if this was the last."""
        place = _writable(reference)

        def change(data: Data) -> None:
            data.pop(place.in_stage(stage), None)

        self._change(place, change)

    def _change(self, place: _Place, change: Callable[[Data], None]) -> None:
        for _ in range(_ATTEMPTS):
            found, version = self._server.read(place.mount, place.path, None)
            data = dict(found)
            change(data)
            if data == found or self._server.write(place.mount, place.path, data, version):
                return
        raise SecretStoreError(
            f"{place.mount}/{place.path} was not written: others wrote to it each of {_ATTEMPTS} times between",
            hint="try again when they have finished; nothing of theirs was touched",
        )


def _writable(reference: Reference) -> _Place:
    """Where a reference leads that names no version: old versions have no stages, and are not written."""
    place = _place(reference)
    if place.version is not None:
        raise UnresolvedReference(
            f"{reference} names a version, which is only read, and has no stages: expected none, got ?version="
        )
    return place


def _place(reference: Reference) -> _Place:
    for name, _ in reference.options:
        if name not in {"mount", "version"}:
            raise UnresolvedReference(
                f"{reference} has an unknown option: expected mount, stage or version, got '{name}'"
            )
    mount, path = _divided(reference)
    key = reference.field
    if key is None:
        raise UnresolvedReference(f"{reference} names a whole secret: expected '#KEY' at its end, one value of it")
    for stage, suffix in SUFFIXES.items():
        if suffix and key.endswith(suffix):
            raise UnresolvedReference(
                f"{reference} ends in {suffix}: expected another name, as opskit keeps {stage} values under such keys",
                hint=f"?stage={stage} reads the {stage} value of the key without it",
            )
    return _Place(mount, path, key, _version(reference))


def _divided(reference: Reference) -> tuple[str, str]:
    """The mount and the path of the secret in it."""
    mount = reference.option("mount") or reference.locator.partition("/")[0]
    start, path = reference.locator[: len(mount) + 1], reference.locator[len(mount) + 1 :]
    # No library on the way may find a way up in it: vault://secret/../sys/…
    if start != f"{mount}/" or any(part in {"", ".", ".."} for part in reference.locator.split("/")):
        raise UnresolvedReference(
            f"{reference} is malformed: expected a mount and a path in it, as in vault://secret/app#password",
            hint="?mount=a/b says how much of the path is the mount, as in vault://a/b/app#password?mount=a/b",
        )
    return mount, path


def _version(reference: Reference) -> int | None:
    text = reference.option("version")
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise UnresolvedReference(f"{reference} is malformed: expected ?version=N, N from 1")
    return int(text)
