"""Giving a secret a new value by hand: first pending, read back, then current, so that no mishap costs the old one.

The order is the argument: until `promote` the current value is untouched; after it, the one before is still there as
the previous one. A store that does not keep what it is given is found out while that costs nothing.
"""

from __future__ import annotations

from opskit.errors import SecretAbsent, SecretStoreError, UsageError
from opskit.secrets.base import SecretStore, Stage, in_stage
from opskit.secrets.reference import Reference, Secret

LARGEST = 64 * 1024
"""Bytes of a value that is set: what every store can keep."""


def set_secret(store: SecretStore, reference: Reference, secret: Secret) -> bool:
    """Make `secret` the current value; tells whether another one was, which is now the previous one.

    Setting what is the current value, or what is pending, goes on from there: a repetition after an interruption is
    fine, and costs no previous value. For one caller at a time. Raises UsageError for a value that is too large,
    SecretStoreError where another value is pending, or the store does not keep this one.
    """
    if len(secret.reveal_bytes()) > LARGEST:
        raise UsageError(f"expected a secret of at most {LARGEST:,} bytes, got {len(secret.reveal_bytes()):,}")
    pending, current = (value_in(store, reference, each) for each in (Stage.PENDING, Stage.CURRENT))
    if pending is not None and not _same(pending, secret):
        raise SecretStoreError(
            f"{reference} has a pending value already: a rotation is under way, or was interrupted",
            hint=f"if nobody rotates it: opskit secrets delete '{in_stage(reference, Stage.PENDING)}'",
        )
    if current is not None and _same(current, secret):
        store.delete(reference, Stage.PENDING)
        return False
    store.set(reference, Stage.PENDING, secret)
    _require(store, reference, Stage.PENDING, secret)
    store.promote(reference)
    _require(store, reference, Stage.CURRENT, secret)
    return current is not None


def value_in(store: SecretStore, reference: Reference, stage: Stage) -> Secret | None:
    """The value in a stage, None where there is none."""
    try:
        return store.get(reference, stage)
    except SecretAbsent:
        return None


def _require(store: SecretStore, reference: Reference, stage: Stage, secret: Secret) -> None:
    found = value_in(store, reference, stage)
    if found is None or not _same(found, secret):
        raise SecretStoreError(
            f"{reference} did not keep its {stage} value: expected what was just written, got "
            + ("nothing" if found is None else "another"),
            hint="the value before is still in the store; what keeps it from taking another must be mended first",
        )


def _same(one: Secret, other: Secret) -> bool:
    return one.reveal_bytes() == other.reveal_bytes()
