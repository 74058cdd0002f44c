"""The values of one secret in its store, told apart by fingerprints: which is where, and how one becomes current.

Whatever is written is read back. A value is only deleted by its fingerprint, and never while it is the current one.
"""

from __future__ import annotations

from opskit.errors import SecretStoreError
from opskit.secrets.base import SecretStore, Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.state import Fingerprints
from opskit.secrets.setting import value_in


class Values:
    """One secret in a store. Every method raises SecretStoreError or UnresolvedReference where the store does."""

    def __init__(self, store: SecretStore, reference: Reference, prints: Fingerprints) -> None:
        self._store, self._reference, self._prints = store, reference, prints

    def print_of(self, secret: Secret) -> str:
        """The fingerprint of a value."""
        return self._prints.of(secret)

    def at(self, stage: Stage) -> Secret | None:
        """The value in a stage; an empty one counts as none."""
        found = value_in(self._store, self._reference, stage)
        return found if found is not None and found.reveal_bytes() else None

    def is_at(self, stage: Stage, wanted: str | None) -> bool:
        """Whether the value of that fingerprint is in that stage."""
        found = self.at(stage)
        return found is not None and self._prints.of(found) == wanted

    def is_current(self, *wanted: str | None) -> bool:
        """Whether the current value is one of those."""
        return any(self.is_at(Stage.CURRENT, each) for each in wanted if each is not None)

    def find(self, wanted: str | None) -> Secret | None:
        """The value of that fingerprint, in whatever stage."""
        if wanted is None:
            return None
        for stage in (Stage.CURRENT, Stage.PENDING, Stage.PREVIOUS):
            found = self.at(stage)
            if found is not None and self._prints.of(found) == wanted:
                return found
        return None

    def stage(self, secret: Secret) -> None:
        """Make it the pending one, and read it back."""
        self._store.set(self._reference, Stage.PENDING, secret)
        self._require(Stage.PENDING, secret)

    def make_current(self, secret: Secret) -> None:
        """Make it the current one and the one that is current the previous one, wherever it is now; read it back."""
        wanted = self._prints.of(secret)
        if self.is_at(Stage.CURRENT, wanted):
            return
        if not self.is_at(Stage.PENDING, wanted):
            self.stage(secret)
        try:
            self._store.promote(self._reference)
        except SecretStoreError:
            if not self.is_at(Stage.CURRENT, wanted):  # else only its answer was lost
                raise
        self._require(Stage.CURRENT, secret)

    def forget(self, unwanted: str | None) -> None:
        """Delete the value of that fingerprint where it is pending or previous."""
        for stage in (Stage.PENDING, Stage.PREVIOUS):
            if unwanted is not None and self.is_at(stage, unwanted):
                self._store.delete(self._reference, stage)

    def _require(self, stage: Stage, secret: Secret) -> None:
        if not self.is_at(stage, self._prints.of(secret)):
            raise SecretStoreError(
                f"{self._reference} did not keep its {stage} value: expected what was just written, got something else",
                hint="the value before is untouched; what keeps the store from taking another must be mended first",
            )
