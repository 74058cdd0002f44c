"""The seam of secret stores: places that keep a secret in stages, so that a new value never costs the old one.

A secret has at most one value in each stage. Programs read CURRENT. A new value waits in PENDING until it is proved;
`promote` makes it current and keeps the one before as PREVIOUS. Stages are named as in AWS Secrets Manager.

Whether a program reads a reference without `?stage=` or with one, it is the same secret: references given to these
methods name no stage, the stage is said beside them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from opskit.errors import UnresolvedReference
from opskit.secrets.reference import Reference, Secret


class Stage(StrEnum):
    """Where a value stands in the life of a secret."""

    PENDING = "pending"
    CURRENT = "current"
    PREVIOUS = "previous"


SUFFIXES = {Stage.PENDING: "__pending", Stage.CURRENT: "", Stage.PREVIOUS: "__previous"}
"""What stores without stages of their own put behind a name, to keep each value in an entry of its own."""


class SecretStore(Protocol):
    """Keeps secrets. What a method has done is durable when it returns, and others see it whole or not at all.

    All raise UnresolvedReference for a reference that cannot lie in this store, and SecretStoreError where the store
    cannot be used.
    """

    def get(self, reference: Reference, stage: Stage) -> Secret:
        """The value in a stage; raises SecretAbsent where there is none."""
        ...

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        """Keep a value in a stage, in place of any other there; the other stages stay as they are."""
        ...

    def promote(self, reference: Reference) -> None:
        """Make the pending value the current one, and the current one, if any, the previous one, in one step.

        Raises SecretAbsent where nothing is pending; nothing is changed then.
        """
        ...

    def delete(self, reference: Reference, stage: Stage) -> None:
        """Forget the value in a stage; one that is not there is no error."""
        ...


def staged(reference: Reference) -> tuple[Reference, Stage]:
    """A reference without its `?stage=`, and the stage; raises UnresolvedReference for an unknown one."""
    word = reference.option("stage")
    if word is None:
        return reference, Stage.CURRENT
    if word not in list(Stage):
        raise UnresolvedReference(f"{reference} is malformed: expected stage=pending, current or previous")
    options = tuple(each for each in reference.options if each[0] != "stage")
    return Reference(reference.scheme, reference.locator, reference.field, options), Stage(word)


def in_stage(reference: Reference, stage: Stage) -> Reference:
    """A reference that names no stage, with one: what `staged` takes apart."""
    options = (*reference.options, ("stage", stage.value))
    return Reference(reference.scheme, reference.locator, reference.field, options)


class StoreScheme:
    """A secret store as a scheme of references: `?stage=` chooses, the current value is the default."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store

    def resolve(self, reference: Reference) -> Secret:
        """The value. Raises UnresolvedReference, SecretStoreError."""
        return self._store.get(*staged(reference))
