"""Key rings: which are refused, and what interruptions leave."""

from __future__ import annotations

from typing import Any

import pytest

from opskit.errors import SecretStoreError, UnresolvedReference
from opskit.secrets.base import Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.setting import set_secret, value_in
from opskit.secrets.stores import keyrings
from opskit.secrets.stores.keyrings import KeyringStore
from tests.secrets.backends import KeyringInMemory

REFERENCE = Reference("keyring", "app/user")


def held(store: KeyringStore) -> dict[str, str]:
    found = {stage: value_in(store, REFERENCE, stage) for stage in Stage}
    return {stage: secret.reveal() for stage, secret in found.items() if secret is not None}


def test_an_unsafe_key_ring_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A back end that keeps nothing, or keeps it in the clear, is refused by its module, whatever its priority."""
    unsafe: list[Any] = []
    for module in ("keyring.backends.null", "keyring.backends.fail", "keyrings.alt.file", "keyring.backends.chainer"):
        kind = type("Keyring", (KeyringInMemory,), {"__module__": module, "priority": 9})
        unsafe.append(kind())
    monkeypatch.setattr("keyring.backend.get_all_keyring", lambda: unsafe)
    with pytest.raises(SecretStoreError, match="no key ring in this session") as caught:
        set_secret(KeyringStore(), REFERENCE, Secret("hunter2-value"))
    assert "gpg:" in str(caught.value.hint) and not any(each.entries for each in unsafe)
    safe = type("Keyring", (KeyringInMemory,), {"__module__": keyrings.SAFE[0], "priority": 5})()
    unsafe.append(safe)
    set_secret(KeyringStore(), REFERENCE, Secret("hunter2-value"))
    assert safe.entries == {("app", "user"): "hunter2-value"}


def test_a_key_ring_that_swallows_is_found_out() -> None:
    """What does not come back was not kept: an error, and the value before is untouched."""
    backend = KeyringInMemory()
    store = KeyringStore(lambda: backend)
    set_secret(store, REFERENCE, Secret("first-value"))
    backend.writes, backend.fails = 0, "swallow"
    with pytest.raises(SecretStoreError, match="did not keep"):
        set_secret(store, REFERENCE, Secret("second-value"))
    assert held(store) == {"current": "first-value"}


@pytest.mark.parametrize("writes", range(5))
def test_an_interrupted_promotion_costs_nothing(writes: int) -> None:
    """Wherever it stops there is a whole current value, old or new; a repetition ends as if nothing had been."""
    backend = KeyringInMemory()
    store = KeyringStore(lambda: backend)
    set_secret(store, REFERENCE, Secret("value-0"))
    set_secret(store, REFERENCE, Secret("value-1"))
    backend.writes = writes
    try:
        set_secret(store, REFERENCE, Secret("value-2"))
    except SecretStoreError as error:
        assert writes < 4 and "value" not in str(error)
    assert held(store)["current"] in ("value-1", "value-2")
    assert "value-1" in held(store).values()
    backend.writes = 1_000_000
    if "pending" in held(store) or held(store)["current"] == "value-1":
        set_secret(store, REFERENCE, Secret("value-2"))
    assert held(store) == {"current": "value-2", "previous": "value-1"}


@pytest.mark.parametrize("text", ["keyring://app", "keyring://app/", "keyring:///user", "keyring://app/user#x"])
def test_what_is_no_entry(text: str) -> None:
    """A reference names a service and a user, no more."""
    with pytest.raises(UnresolvedReference, match="expected keyring://SERVICE/USER"):
        KeyringStore(KeyringInMemory).get(Reference.parse(text), Stage.CURRENT)


@pytest.mark.parametrize("user", ["user__pending", "user__previous"])
def test_a_stage_is_no_user(user: str) -> None:
    """A user of the name of another's stage is refused: the two would take each other's values."""
    backend = KeyringInMemory()
    with pytest.raises(UnresolvedReference, match="without __pending or __previous"):
        set_secret(KeyringStore(lambda: backend), Reference("keyring", f"app/{user}"), Secret("a value"))
    assert not backend.entries
