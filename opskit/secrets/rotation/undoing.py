"""The way back of a rotation: to the old value, everywhere, from wherever the way forward had come.

The order: the target accepts the old value; the store says so; consumers have it; then the new value goes. It is
repeated as a whole after a crash, and looks before it acts.
"""

from __future__ import annotations

from opskit.errors import TargetRefused, UsageError
from opskit.secrets.base import Stage
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.journal import Journal
from opskit.secrets.rotation.proof import Proof
from opskit.secrets.rotation.state import Rotation, State
from opskit.secrets.rotation.steps import Steps, Stuck
from opskit.secrets.rotation.subject import Subject
from opskit.secrets.rotation.values import Values


class Undoing:
    """Takes rotations of one subject back."""

    def __init__(self, subject: Subject, journal: Journal, values: Values, proof: Proof, steps: Steps) -> None:
        self._subject, self._journal, self._values, self._proof, self._steps = subject, journal, values, proof, steps

    def require_possible(self, rotation: Rotation) -> None:
        """Raises UsageError where a rotation cannot be undone any more, saying why."""
        resume = f"opskit rotate resume {rotation.name}"
        if rotation.is_over:
            raise UsageError(f"the rotation of {rotation.name} is over: {rotation.state}", hint="nothing to undo")
        if self._journal.was_intended(rotation, State.OLD_DELETED):
            raise UsageError(f"the old value of {rotation.name} is being deleted already", hint=resume)
        if rotation.old_print is None and self._journal.was_intended(rotation, State.APPLIED):
            raise UsageError(f"{rotation.name} had no value before that could be brought back", hint=resume)
        if self._subject.items is not None and self._subject.items.has_moved(rotation):
            raise UsageError(
                f"items of {rotation.name} are under the new value already: giving it up would lose them", hint=resume
            )
        if rotation.old_print is not None and self._values.find(rotation.old_print) is None:
            # Said before the way forward is closed.
            raise UsageError(
                f"{self._subject.reference} has lost the old value: there is nothing to go back to", hint=resume
            )

    def back(self, rotation: Rotation) -> Rotation:
        """All of it. Raises Stuck, and what store, target and consumers raise."""
        new, old = self._values.find(rotation.new_print), self._values.find(rotation.old_print)
        if old is None and rotation.old_print is not None:
            raise Stuck(f"{self._subject.reference} has lost its old value: there is nothing to go back to")
        with self._steps.doing(rotation, State.ROLLED_BACK):
            if old is not None:
                self._return_to(rotation, old, new or self._made(rotation, old))
            self._values.forget(rotation.new_print)
            self._values.forget(rotation.refused_print)
        return self._steps.reached(rotation, State.ROLLED_BACK, rotation.cause)

    def _made(self, rotation: Rotation, old: Secret) -> Secret | None:
        """What a target has made that the store never got: another value replaces it, to be revoked."""
        if rotation.state is not State.PLANNED or not self._journal.was_intended(rotation, State.STAGED):
            return None
        try:
            return self._subject.target.create(old, rotation.started)
        except TargetRefused:  # it made none before, either
            return None

    def _return_to(self, rotation: Rotation, old: Secret, new: Secret | None) -> None:
        target = self._subject.target
        if not target.verify(old):
            target.apply(old, new)
            if not self._proof.is_accepted(old):
                raise Stuck("the target does not accept the old value any more; the store has both values")
        if not self._values.is_at(Stage.CURRENT, rotation.old_print):
            self._values.make_current(old)
        if State.PROMOTED in rotation.reached:
            fault = self._steps.tell_consumers(rotation, old, all_first=True)
            if fault is not None:
                raise Stuck(fault)
        if new is not None:
            target.revoke(new, old, final=True)
