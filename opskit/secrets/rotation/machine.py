"""The rotation machine: takes one secret from its old value to a new one, and may be killed anywhere on the way.

The order of its steps is the argument (the tests try every crash point of it):

1. The new value lies in the store, pending, and was read back, before the target hears of it: it is never lost.
2. The target accepts it, and a new connection has shown that, before anybody is given it.
3. Only then does it become current; consumers and items move; the old value goes last, switched off before it is
   deleted, and neither while something shows that it is still used.

Each step can be repeated. `advance` starts from what the journal says was reached, and looks at store and target before
it acts, as the record may be one step behind the world. What nobody can know (a call that timed out) is probed. The way
back is `Undoing`.

It does not schedule, print, lock or ask: who calls it holds the lock of the rotation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from opskit.errors import OpskitError, SecretStoreError, TargetError, TargetRefused, UsageError
from opskit.secrets.base import Stage
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.journal import Journal
from opskit.secrets.rotation.proof import Proof, Waits
from opskit.secrets.rotation.state import Fingerprints, Rotation, State
from opskit.secrets.rotation.steps import Steps, Stuck
from opskit.secrets.rotation.subject import Subject, Tools
from opskit.secrets.rotation.undoing import Undoing
from opskit.secrets.rotation.values import Values

CANDIDATES = 3
"""New values that are tried before a target that refuses them is believed."""

GIVEN_UP = "given up by hand, everything was left as it is"
"""How the cause of such an end begins."""

SWITCH_ON = "switch the old value on again"
"""A step beside the states."""


class Machine:
    """Moves the rotations of one subject."""

    def __init__(self, subject: Subject, journal: Journal, prints: Fingerprints, tools: Tools) -> None:
        self._subject, self._journal, self._tools = subject, journal, tools
        self._values = Values(subject.store, subject.reference, prints)
        self._proof = Proof(subject, tools)
        self._steps = Steps(subject, journal, self._values, self._proof, tools)
        self._undoing = Undoing(subject, journal, self._values, self._proof, self._steps)
        self._tells_again = False
        self._next: dict[State, Callable[[Rotation], Rotation]] = {
            State.PLANNED: self._stage,
            State.STAGED: self._apply,
            State.APPLIED: self._test,
            State.TESTED: self._promote,
            State.PROMOTED: self._deliver,
            State.MIGRATING: self._migrate,
            State.GRACE: self._disable,
            State.OLD_DISABLED: self._delete,
        }

    def plan(self, *, recover: bool = False) -> Secret | None:
        """Look whether a rotation can begin; gives the value that will be the old one. Nothing is changed.

        With `recover` a current value that the target refuses is given up, where else it would be kept. Raises
        UsageError where a rotation is under way or something is pending, TargetRefused where the current value is not
        accepted, and what store and target raise.
        """
        latest = self._journal.latest(self._subject.name)
        if latest is not None and not latest.is_over:
            raise UsageError(
                f"a rotation of {self._subject.name} is under way: {latest.shown}",
                hint=f"opskit rotate resume {self._subject.name}, or undo",
            )
        if self._values.at(Stage.PENDING) is not None:
            raise self._steps.stranger()
        current = self._values.at(Stage.CURRENT)
        self._proof.foresee(current, lambda: self._values.at(Stage.PREVIOUS))
        if current is None:
            return None
        if self._subject.target.verify(current):
            for consumer in self._subject.consumers:
                consumer.lacking(current)  # raises where it could not be told of a new value: now that costs nothing
            return current
        if recover:
            return None
        raise TargetRefused(
            f"the current value of {self._subject.reference} is refused by its target: nothing was changed",
            hint="set the value that is in use (opskit secrets set), or --recover makes a new one with the credential "
            "of an administrator, where the config names one",
        )

    def begin(self, *, recover: bool = False) -> Rotation:
        """Plan, and note that a rotation begins; `advance` goes on from there."""
        old, now = self.plan(recover=recover), self._tools.now()
        rotation = Rotation(
            self._tools.new_id(), self._subject.name, str(self._subject.reference), now,
            old_print=None if old is None else self._values.print_of(old), reached={State.PLANNED: now},
        )  # fmt: skip
        with self._tools.around(rotation, State.PLANNED):
            self._journal.keep(rotation)
        return rotation

    def advance(self, rotation: Rotation, *, tells_again: bool = False) -> Rotation:
        """Go on until the end, or as far as it gets; the reason why it stopped is its `problem`.

        With `tells_again` consumers that somebody put back to another value since they were told get the new one, once.

        Raises what store, target and consumers raise where nobody can say what became of a call, or nothing can be
        done now; then `advance` may be called again.
        """
        rotation, self._tells_again = replace(rotation, is_stuck=False), tells_again
        try:
            while not rotation.is_over:
                step = self._undoing.back if rotation.is_back else self._next[rotation.state]
                rotation = step(rotation)
        except Waits as reason:
            return self._stopped(rotation, str(reason), until=reason.until)
        except Stuck as reason:
            return self._stopped(rotation, str(reason), is_stuck=True)
        except OpskitError as error:
            self._note_stop(rotation, error)
            raise
        return rotation

    def undo(self, rotation: Rotation) -> Rotation:
        """Bring back the old value, everywhere. Raises UsageError where that cannot be; nothing is changed then."""
        self._undoing.require_possible(rotation)
        return self.advance(self._steps.turned(rotation, None))

    def give_up(self, rotation: Rotation) -> Rotation:
        """End a rotation that needs an operator, and leave everything as it is. Raises UsageError for any other."""
        if not rotation.is_stuck:
            raise UsageError(
                f"the rotation of {rotation.name} does not need that: it is {rotation.shown}",
                hint=f"opskit rotate resume {rotation.name}, or undo",
            )
        given_up = replace(rotation, is_stuck=False, is_back=True, cause=f"{GIVEN_UP}: {rotation.problem}")
        return self._steps.reached(given_up, State.ROLLED_BACK, given_up.cause)

    def _stopped(
        self, rotation: Rotation, problem: str, *, is_stuck: bool = False, until: float | None = None
    ) -> Rotation:
        """Note why; a step may have come further than the record that it was given."""
        found = self._journal.latest(rotation.name) or rotation
        stopped = replace(found, problem=problem, is_stuck=is_stuck, waits_until=until)
        self._journal.keep(stopped)
        return stopped

    def _note_stop(self, rotation: Rotation, error: OpskitError) -> None:
        try:
            self._stopped(rotation, str(error))
        except OpskitError as second:  # the first is the one to be told: the journal may fail for the same reason
            if type(second) is not type(error):
                more = (error.hint, f"this could not be noted: {second}", second.hint)
                error.hint = "\n".join(each for each in more if each)

    # The steps forward: each is repeated after a crash, and ends in the next state or says why not

    def _stage(self, rotation: Rotation) -> Rotation:
        return self._steps.stage(rotation)

    def _apply(self, rotation: Rotation) -> Rotation:
        new, old = self._steps.new(rotation), self._steps.old(rotation)
        try:
            self._make_accepted(rotation, new, old)
        except TargetRefused as error:
            return self._refused(rotation, old, error)
        return self._steps.reached(rotation, State.APPLIED)

    def _make_accepted(self, rotation: Rotation, new: Secret, old: Secret | None) -> None:
        """Apply it unless it is accepted already; an outcome that is not known is asked for, once more tried."""
        target = self._subject.target
        for may_try_again in (True, False):
            if target.verify(new):
                return
            try:
                with self._steps.doing(rotation, State.APPLIED):
                    target.apply(new, old)
                return
            except TargetRefused:
                if target.verify(new):  # an earlier attempt came through after it was given up
                    return
                raise
            except TargetError:
                if may_try_again:
                    continue
                if target.verify(new):
                    return
                if old is not None and not target.verify(old):
                    raise Stuck(
                        "the target accepts neither the old value nor the new one; the store has both"
                    ) from None
                raise

    def _refused(self, rotation: Rotation, old: Secret | None, error: TargetRefused) -> Rotation:
        """The target will not take this value, and is as it was: perhaps it takes another, which `create` makes."""
        if rotation.refusals + 1 >= CANDIDATES or (old is not None and not self._subject.target.verify(old)):
            return self._steps.turned(rotation, f"the target refuses new values: {error}", is_refused=True)
        again = replace(rotation, new_print=None, refused_print=rotation.new_print, refusals=rotation.refusals + 1)
        return self._steps.reached(again, State.PLANNED, "another value is tried")

    def _test(self, rotation: Rotation) -> Rotation:
        with self._steps.doing(rotation, State.TESTED):
            is_accepted = self._proof.is_accepted(self._steps.new(rotation))
        if not is_accepted:
            return self._steps.turned(rotation, "the target took the new value, and refuses it")
        return self._steps.reached(rotation, State.TESTED)

    def _promote(self, rotation: Rotation) -> Rotation:
        new = self._steps.new(rotation)
        if rotation.old_print is not None and not self._values.is_current(rotation.old_print, rotation.new_print):
            raise Stuck(
                f"another value became current in {self._subject.reference} meanwhile: this one would replace it"
            )
        try:
            with self._steps.doing(rotation, State.PROMOTED):
                self._values.make_current(new)
        except SecretStoreError as error:
            if self._subject.target.keeps_old:
                raise
            # Consumers read a value that the target refuses now, and the store cannot give them the new one.
            return self._steps.turned(rotation, f"the store did not make the new value current: {error}")
        return self._steps.reached(rotation, State.PROMOTED)

    def _deliver(self, rotation: Rotation) -> Rotation:
        is_urgent = not self._subject.target.keeps_old  # they hold a value that is refused by now
        try:
            fault = self._steps.tell_consumers(rotation, self._steps.new(rotation), all_first=is_urgent)
        except OpskitError as error:
            if not is_urgent or rotation.old_print is None:
                raise
            fault = f"a consumer could not be told: {error}"
        if fault is not None:
            return self._steps.turned(rotation, fault)
        return self._steps.reached(rotation, State.MIGRATING)

    def _migrate(self, rotation: Rotation) -> Rotation:
        self._move(rotation)
        return self._steps.reached(rotation, State.GRACE)

    def _move(self, rotation: Rotation) -> None:
        if self._subject.items is None:
            return
        with self._steps.doing(rotation, "items"):
            left = self._subject.items.move(rotation, self._steps.old(rotation), self._steps.new(rotation))
        if left is not None:
            raise Waits(left)

    def _disable(self, rotation: Rotation) -> Rotation:
        new, old = self._steps.new(rotation), self._steps.old(rotation)
        since, grace = rotation.since(State.GRACE), self._subject.policy.grace
        try:
            if (again := self._told_again(rotation, new)) is not None:
                return again
            if self._proof.items_left(rotation, old, new):
                return self._move_late(rotation, old, new)
            self._proof.require_time(since, grace, self._what_ends())
            self._require_unused(rotation, old, new)
        except (Waits, OpskitError):
            self._switch_on(rotation, old, new)
            raise
        if old is not None:
            with self._steps.doing(rotation, State.OLD_DISABLED):
                self._subject.target.revoke(old, new, final=False)
                self._watch(rotation, old, new)
        return self._steps.reached(rotation, State.OLD_DISABLED)

    def _told_again(self, rotation: Rotation, new: Secret) -> Rotation | None:
        """Where consumers hold another value than the new one, they are told again; None where nobody was."""
        if not self._tells_again:
            return None
        self._tells_again = False
        self._require_current(rotation)
        astray = self._steps.astray(rotation, new)
        if not astray:
            return None
        if not self._journal.was_intended(rotation, State.OLD_DELETED):
            # Noted before: whoever put them back may do so again, so that it is waited for as long again.
            names = ", ".join(each.name for each in astray)
            rotation = self._steps.reached(rotation, rotation.state, f"told again: {names}")
        self._steps.tell_again(rotation, astray, new)
        return rotation

    def _what_ends(self) -> str:
        is_kept = self._subject.target.keeps_old
        return "the old value is switched off" if is_kept else "whether all work without the old value is looked at"

    def _move_late(self, rotation: Rotation, old: Secret | None, new: Secret) -> Rotation:
        """What came under the old value after the moves follows them; whoever sent it may send more: it is waited."""
        self._switch_on(rotation, old, new)
        self._move(rotation)
        if left := self._proof.items_left(rotation, old, new):
            raise Waits(f"{left:,} items are under the old value again")
        return self._steps.reached(rotation, State.GRACE, "items that came late have moved")

    def _require_unused(self, rotation: Rotation, old: Secret | None, new: Secret) -> None:
        """Nothing shows that the old value is still needed; raises Waits where something does."""
        self._require_current(rotation)
        self._proof.require_consumers(new)
        if (use := self._proof.use_of(old, new, rotation.since(State.GRACE))) is not None:
            # It has to be unused for as long again: what was seen once would else be seen for ever.
            self._steps.reached(rotation, State.GRACE, f"the old value is still used: {use}")
            raise Waits(f"the old value is still used: {use}")
        self._proof.require_unneeded(old, new)

    def _require_current(self, rotation: Rotation) -> None:
        if not self._values.is_at(Stage.CURRENT, rotation.new_print):
            raise Waits(f"in {self._subject.reference} another value is current than the new one, which consumers need")

    def _switch_on(self, rotation: Rotation, old: Secret | None, new: Secret) -> None:
        """Where the old value may be off, by this run or one that was killed: who needs it must not wait for people.

        It is not tried first: a target would remember that as a use, which would hold its end.
        """
        if old is None or not self._subject.target.keeps_old:  # with one slot that would switch the new one off
            return
        if self._journal.may_hold(rotation, State.OLD_DISABLED, SWITCH_ON):
            try:
                with self._steps.doing(rotation, SWITCH_ON):
                    self._subject.target.apply(old, new)
            except TargetError:
                raise
            except OpskitError:
                # Nobody waits for room on a disk, either: not noted as done, it is done once more by the next run.
                self._subject.target.apply(old, new)
                raise
            self._journal.note(rotation, SWITCH_ON, "done", self._tools.now())

    def _watch(self, rotation: Rotation, old: Secret, new: Secret) -> None:
        """With the old value off, all must still work; else it is switched on again, where there is a switch."""
        try:
            if not self._proof.is_accepted(new):
                raise Stuck(
                    "with the old value the new one went off as well: the old one is accepted again"
                    if self._subject.target.keeps_old
                    else "the target does not accept the new value any more; the store has both values"
                )
            self._proof.require_consumers(new)
        except (Stuck, Waits, OpskitError):
            self._switch_on(rotation, old, new)
            raise

    def _delete(self, rotation: Rotation) -> Rotation:
        new, old = self._steps.new(rotation), self._values.find(rotation.old_print)
        if (again := self._told_again(rotation, new)) is not None:
            return again
        is_begun = self._journal.was_intended(rotation, State.OLD_DELETED)
        since = rotation.since(State.OLD_DISABLED)
        self._proof.require_time(since, self._subject.policy.observe, "the old value is deleted")
        self._require_current(rotation)
        self._proof.require_consumers(new)
        if old is None and not is_begun:
            old = self._steps.old(rotation)  # lost by the store, or there was none
        if old is not None:
            if not is_begun and self._proof.items_left(rotation, old, new):
                return self._steps.reached(rotation, State.GRACE, "items are under the old value again")
            if (reason := self._subject.may_delete(old)) is not None:
                raise Waits(f"the old value is still needed: {reason}")
            self._proof.require_unneeded(old, new)
            with self._steps.doing(rotation, State.OLD_DELETED):
                self._subject.target.revoke(old, new, final=True)
                self._values.forget(rotation.old_print)
        return self._steps.reached(rotation, State.OLD_DELETED)
