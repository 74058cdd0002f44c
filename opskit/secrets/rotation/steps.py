"""What the way forward and the way back of a rotation share: intents, results, the two values, the consumers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from opskit.errors import OpskitError, TargetError, UsageError
from opskit.secrets.base import Stage, in_stage
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.journal import Journal
from opskit.secrets.rotation.proof import Proof, Waits
from opskit.secrets.rotation.state import Rotation, State
from opskit.secrets.rotation.subject import Consumer, Subject, Tools
from opskit.secrets.rotation.values import Values

AGAIN = " again"
"""At the end of the step of a consumer that is told once more."""


class Stuck(Exception):
    """Every way that opskit has was tried; the message says how things stand. Nothing was deleted."""


class Steps:
    """Writes the journal around what is done."""

    def __init__(self, subject: Subject, journal: Journal, values: Values, proof: Proof, tools: Tools) -> None:
        self._subject, self._journal, self._values, self._proof, self._tools = subject, journal, values, proof, tools

    @contextmanager
    def doing(self, rotation: Rotation, step: str) -> Iterator[None]:
        """Note the intent before the act, and a failure after it; what was reached is for `reached` to note."""
        self._journal.note(rotation, step, "intent", self._tools.now())
        with self._tools.around(rotation, step):
            try:
                yield
            except (OpskitError, Stuck, Waits) as error:
                with suppress(OpskitError):  # a full disk, perhaps the very reason; the intent says enough to go on
                    self._journal.note(rotation, step, "failed", self._tools.now(), str(error))
                raise

    def reached(self, rotation: Rotation, state: State, note: str | None = None) -> Rotation:
        """Note that a state is reached."""
        now = self._tools.now()
        moved = replace(rotation, state=state, problem=None, waits_until=None, reached={**rotation.reached, state: now})
        self._journal.reach(moved, state, now, note)
        return moved

    def turned(self, rotation: Rotation, cause: str | None, *, is_refused: bool = False) -> Rotation:
        """Note that from now on the way is back; raises Stuck where nothing is there to go back to.

        Where the target refused the new value there always is a way: nobody has it.
        """
        if rotation.old_print is None and not is_refused and self._journal.was_intended(rotation, State.APPLIED):
            raise Stuck(f"{cause}; there is no value before to go back to")
        turned = replace(rotation, is_back=True, cause=cause, problem=None, waits_until=None)
        self._journal.reach(turned, "undo", self._tools.now(), cause)
        return turned

    def new(self, rotation: Rotation) -> Secret:
        """The new value; raises Stuck where the store has lost it."""
        return self._kept(rotation.new_print, "new")

    def old(self, rotation: Rotation) -> Secret | None:
        """The value before, None where there was none; raises Stuck where the store has lost it."""
        return None if rotation.old_print is None else self._kept(rotation.old_print, "old")

    def stage(self, rotation: Rotation) -> Rotation:
        """Make a new value and keep it in the store, pending; one of this rotation that is there is taken as it is."""
        self._values.forget(rotation.refused_print)
        found = self._values.at(Stage.PENDING)
        if found is None:
            with self.doing(rotation, State.STAGED):
                new = self._subject.target.create(self.old(rotation), rotation.started)
                # Noted first, so that whoever goes on from here can tell it from a value of somebody else.
                rotation = replace(rotation, new_print=self._values.print_of(new))
                self._journal.keep(rotation)
                self._values.stage(new)
        elif self._values.print_of(found) != rotation.new_print:
            raise self.stranger()
        return self.reached(rotation, State.STAGED)

    def stranger(self) -> UsageError:
        """That a pending value is in the way."""
        return UsageError(
            f"{self._subject.reference} has a pending value that is of no rotation",
            hint=f"if nobody needs it: opskit secrets delete '{in_stage(self._subject.reference, Stage.PENDING)}'",
        )

    def tell_consumers(self, rotation: Rotation, secret: Secret, *, all_first: bool) -> str | None:
        """Have each consumer take this value, unless it has it; why one does not work with it, or None.

        They are told and judged one after another, so that a value that does no good reaches one of them only. With
        `all_first` all are told before any is judged: they hold a value that is refused, or soon will be.
        """
        consumers = self._subject.consumers
        for some in [consumers] if all_first else [[each] for each in consumers]:
            self._tell_all(rotation, some, secret)
            for consumer in some:
                if (fault := self._proof.fault_of(consumer)) is not None:
                    return f"{consumer.name} does not work with the value that it was given: {fault}"
        return None

    def astray(self, rotation: Rotation, secret: Secret) -> list[Consumer]:
        """Consumers that were given this value, and hold another one now; those that may not have read it, too."""
        return [each for each in self._subject.consumers if not self._is_told(rotation, each, secret)]

    def tell_again(self, rotation: Rotation, consumers: Sequence[Consumer], secret: Secret) -> None:
        """Have these take the value once more. Raises what one raises that cannot be told, Waits where one fails."""
        self._tell_all(rotation, consumers, secret, AGAIN)
        for consumer in consumers:
            if (fault := self._proof.fault_of(consumer)) is not None:
                raise Waits(f"{consumer.name} was told again, and does not work: {fault}")

    def _tell_all(self, rotation: Rotation, consumers: Sequence[Consumer], secret: Secret, again: str = "") -> None:
        """Raises what the first one raises that cannot be told, once the others are."""
        failures = list[OpskitError]()
        for consumer in consumers:
            try:
                self._tell(rotation, consumer, secret, again)
            except OpskitError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _tell(self, rotation: Rotation, consumer: Consumer, secret: Secret, again: str) -> None:
        if self._is_told(rotation, consumer, secret):
            return
        kind = self._told(secret)
        self._journal.list_parts(rotation, kind, [consumer.name], self._tools.now())
        with self.doing(rotation, f"consumer {consumer.name}{again}"):
            self._journal.mark(rotation, kind, [(consumer.name, "running", None, 1)], self._tools.now())
            consumer.deliver(secret)
            if places := consumer.lacking(secret):
                raise TargetError(f"{consumer.name} does not hold what was just written to it: {', '.join(places)}")
            self._journal.mark(rotation, kind, [(consumer.name, "done", None, 0)], self._tools.now())

    def _is_told(self, rotation: Rotation, consumer: Consumer, secret: Secret) -> bool:
        """Whether it was told to the end, its reload too, and still holds the value."""
        part = self._journal.part(rotation, self._told(secret), consumer.name)
        return part is not None and part.state == "done" and not consumer.lacking(secret)

    def _told(self, secret: Secret) -> str:
        return f"told {self._values.print_of(secret)}"

    def _kept(self, wanted: str | None, which: str) -> Secret:
        found = self._values.find(wanted)
        if found is None:
            raise Stuck(
                f"{self._subject.reference} has lost its {which} value: expected the one of fingerprint {wanted} "
                "as pending, current or previous"
            )
        return found
