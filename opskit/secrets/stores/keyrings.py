"""`keyring://SERVICE/USER`: a secret in the key ring of a desktop (Secret Service, KWallet, macOS, Windows).

The stages of USER are the entries USER, USER__pending and USER__previous; a USER of such an end is refused.

Invariants: no key ring is used that keeps nothing or keeps it in the clear; the package chooses such ones by itself on
hosts without a desktop. What was written is read back. Promotion is three writes, for a key ring has no larger one: in
an order in which the current value is always there, whole, and a repetition goes on where an interruption was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opskit.errors import SecretAbsent, SecretStoreError, UnresolvedReference
from opskit.secrets.base import SUFFIXES, Stage
from opskit.secrets.reference import Reference, Secret

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

_STAGED = tuple(suffix for suffix in SUFFIXES.values() if suffix)
SAFE = (
    "keyring.backends.SecretService",
    "keyring.backends.libsecret",
    "keyring.backends.kwallet",
    "keyring.backends.macOS",
    "keyring.backends.Windows",
)
"""The modules of back ends that keep secrets encrypted, under the user's login."""


def system_keyring() -> KeyringBackend:
    """The best back end of this session that is safe; raises SecretStoreError where there is none."""
    from keyring.backend import get_all_keyring

    found = [each for each in get_all_keyring() if type(each).__module__ in SAFE]
    if not found:
        raise SecretStoreError(
            "no key ring in this session: expected a Secret Service (GNOME Keyring, KeePassXC) or KWallet, found none",
            hint="on a server use gpg:///var/lib/opskit/secrets.gpg#NAME, or cred://NAME in a unit of systemd",
        )
    return max(found, key=lambda each: float(each.priority))


class KeyringStore:
    """Keeps secrets in a key ring; `backend` gives it when it is needed."""

    def __init__(self, backend: Callable[[], KeyringBackend] = system_keyring) -> None:
        self._backend = backend

    def get(self, reference: Reference, stage: Stage) -> Secret:
        """The value of an entry."""
        service, user = _place(reference, stage)
        with _translated(reference):
            value = self._backend().get_password(service, user)
        if not value:
            raise SecretAbsent(f"{reference} cannot be resolved: expected a {stage} value in the key ring, found none")
        return Secret(value)

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        """Write an entry, and read it back: some key rings swallow what they are given."""
        service, user = _place(reference, stage)
        value = secret.reveal()
        with _translated(reference):
            backend = self._backend()
            backend.set_password(service, user, value)
            is_kept = backend.get_password(service, user) == value
        if not is_kept:
            raise SecretStoreError(f"the key ring did not keep {reference}: expected what was written, got another")

    def promote(self, reference: Reference) -> None:
        """First the current value becomes the previous one, then the pending one current; last, nothing is pending."""
        pending = self.get(reference, Stage.PENDING)
        current = self._value(reference, Stage.CURRENT)
        if current is None or current.reveal() != pending.reveal():  # else this was done, and only the end is missing
            if current is not None:
                self.set(reference, Stage.PREVIOUS, current)
            self.set(reference, Stage.CURRENT, pending)
        self.delete(reference, Stage.PENDING)

    def delete(self, reference: Reference, stage: Stage) -> None:
        """Remove an entry."""
        service, user = _place(reference, stage)
        if self._value(reference, stage) is not None:
            with _translated(reference):
                self._backend().delete_password(service, user)

    def _value(self, reference: Reference, stage: Stage) -> Secret | None:
        try:
            return self.get(reference, stage)
        except SecretAbsent:
            return None


def _place(reference: Reference, stage: Stage) -> tuple[str, str]:
    """The service and the user of an entry; raises UnresolvedReference."""
    service, slash, user = reference.locator.partition("/")
    if not (service and slash and user) or reference.field is not None or reference.options:
        raise UnresolvedReference(f"{reference} is malformed: expected keyring://SERVICE/USER, perhaps with ?stage=")
    if user.endswith(_STAGED):
        raise UnresolvedReference(
            f"{reference} is malformed: expected a USER without {' or '.join(_STAGED)} at its end, which mark stages",
            hint="name a stage with ?stage=pending or ?stage=previous",
        )
    return service, user + SUFFIXES[stage]


@contextmanager
def _translated(reference: Reference) -> Iterator[None]:
    from keyring.errors import KeyringError

    try:
        yield
    except (KeyringError, OSError, RuntimeError) as error:
        # `from None`: a back end's error may carry what it was given.
        raise SecretStoreError(
            f"the key ring failed with {reference}: {type(error).__name__}",
            hint="is it unlocked? on a server use gpg: or cred: instead",
        ) from None
