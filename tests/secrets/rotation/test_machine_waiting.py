"""What holds the end of the old value: time, use, backups, consumers, stores that were set back, items."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from opskit.errors import SecretStoreError, StateFull, TargetError, TargetRefused, UsageError
from opskit.secrets.base import Stage
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.state import Rotation, State
from opskit.secrets.rotation.subject import Policy
from tests.secrets.rotation.simulation import (
    OLD,
    Killed,
    Made,
    killed_at,
    require_new_everywhere,
    resume,
    retire,
    run,
    steps,
    undo,
)

HOUR = 3600.0


def test_grace_and_observation_are_waited_for(made: Made) -> None:
    """The old value is off at the end of the grace period, gone after the observation, and not a second before."""
    world = made()
    world.policy = Policy(grace=HOUR, observe=2 * HOUR)
    begun = world.clock
    rotation = run(world)
    assert (rotation.state, rotation.waits_until) == (State.GRACE, begun + HOUR)
    assert rotation.problem == "the old value is switched off in 1 h 0 min at the earliest"
    world.clock = begun + HOUR - 1
    assert resume(world).state is State.GRACE
    assert OLD in world.target.accepted
    world.clock = begun + HOUR
    rotation = resume(world)
    assert (rotation.state, rotation.waits_until) == (State.OLD_DISABLED, begun + 3 * HOUR)
    assert OLD not in world.target.accepted
    assert OLD in world.target.known
    assert OLD in world.stages.values()
    world.clock = begun + 3 * HOUR
    rotation = resume(world)
    assert (rotation.state, rotation.waits_until, rotation.problem) == (State.OLD_DELETED, None, None)
    require_new_everywhere(world)


def test_with_one_slot_nothing_is_said_to_be_switched_off(made: Made) -> None:
    """The old value ended when it was replaced: what is waited for is that all are looked at, and so it is told."""
    world = made("one-slot")
    world.policy = Policy(grace=HOUR)
    assert run(world).problem == "whether all work without the old value is looked at in 1 h 0 min at the earliest"
    world.clock += HOUR
    world.hides = lambda _value: True
    rotation = resume(world)
    assert (rotation.shown, rotation.problem) == (
        State.NEEDS_OPERATOR,
        "the target does not accept the new value any more; the store has both values",
    )


def test_a_value_that_is_needed_is_kept(made: Made) -> None:
    """Neither switched off nor deleted while its target needs it kept; the grace goes on, the way back stays open."""
    world = made()
    world.policy = Policy(grace=HOUR, observe=HOUR)
    world.need = lambda: "a disk is away"
    run(world)
    world.clock += HOUR
    rotation = resume(world)
    assert (rotation.state, rotation.problem) == (State.GRACE, "the old value is kept: a disk is away")
    assert OLD in world.target.accepted
    world.need = lambda: None
    assert resume(world).state is State.OLD_DISABLED, "the grace did not begin anew"
    world.clock += HOUR
    world.need = lambda: "a host writes for it again"
    rotation = resume(world)
    assert (rotation.state, rotation.problem) == (
        State.OLD_DISABLED,
        "the old value is kept: a host writes for it again",
    )
    assert undo(world).state is State.ROLLED_BACK
    assert OLD in world.target.accepted


def test_what_a_target_foresees_keeps_a_rotation_from_its_beginning(made: Made) -> None:
    """Nothing is noted nor made, with `--recover` neither; the target is told what the store has, if anything."""
    for first in (OLD, None):
        world, seen = made(first=first), list[Secret | None]()

        def refuse(current: Secret | None, previous: Secret | None, seen: list[Secret | None] = seen) -> None:
            assert previous is not None and previous.reveal_bytes() == b"before"
            seen.append(current)
            raise TargetRefused("it would not come to its end")

        world.foresees = refuse
        world.stages[Stage.PREVIOUS] = b"before"
        for recover in (False, True):
            with pytest.raises(TargetRefused, match="would not come"):
                world.machine().begin(recover=recover)
        assert world.latest() is None and "target.create" not in world.calls
        assert [each and each.reveal_bytes() for each in seen] == [first, first]


def test_without_a_time_to_wait_a_clock_that_was_set_back_holds_nothing(made: Made) -> None:
    """What happened in the future, as the clock has it now, is no reason to wait where no time is to be waited for."""
    world = made()
    world.policy = Policy(grace=HOUR)
    assert run(world).state is State.GRACE
    world.clock -= 1000 * HOUR
    assert resume(world).state is State.GRACE
    world.policy = Policy()
    assert resume(world).state is State.OLD_DELETED
    require_new_everywhere(world)


def test_what_still_uses_the_old_value_holds_its_end(made: Made) -> None:
    """Where the target saw the old value used it stays accepted; a use that is past does not hold it for ever."""
    world = made()
    used = [world.clock + 1]
    world.evidence = lambda since: f"a login at {used[-1]:.0f}" if used[-1] > since else None
    world.policy = Policy(grace=HOUR)
    run(world)
    world.clock += HOUR
    rotation = resume(world)
    assert (rotation.state, rotation.problem) == (State.GRACE, "the old value is still used: a login at 1000001")
    assert OLD in world.target.accepted
    world.clock += HOUR / 2
    assert "at the earliest" in str(resume(world).problem)  # as long again, from when it was seen
    used.append(world.clock)
    world.clock += HOUR / 2
    assert "a login at" in str(resume(world).problem)
    world.clock += HOUR
    assert resume(world).state is State.OLD_DELETED


def test_a_backup_that_needs_the_old_value_holds_its_deletion(made: Made) -> None:
    """The old value is asked for before it is deleted, and stays in store and target while something needs it."""
    world, needed = made(), ["snapshot 12 is encrypted with it"]
    asked: list[bytes] = []
    world.may_delete = lambda old: (asked.append(old.reveal_bytes()), needed[0] if needed else None)[1]
    rotation = run(world)
    assert rotation.state is State.OLD_DISABLED
    assert rotation.problem == "the old value is still needed: snapshot 12 is encrypted with it"
    assert OLD in world.target.known
    assert OLD in world.stages.values()
    needed.clear()
    assert resume(world).state is State.OLD_DELETED
    assert asked == [OLD, OLD]


@pytest.mark.parametrize("state", [State.GRACE, State.OLD_DISABLED])
def test_a_consumer_that_went_back_holds_the_retirement(made: Made, state: State) -> None:
    """A consumer that holds another value when the old one would go: nothing goes; who, where, what to do is told."""
    world = made()
    world.may_lock_out = state is State.OLD_DISABLED
    killed_at(world, state)
    world.has["app"] = OLD
    rotation = retire(world)
    assert rotation.state is state
    assert rotation.problem == (
        "app holds another value than the new one in /etc/app, expected what was written there: see that nothing puts "
        "it back (configuration management, perhaps), then `opskit rotate resume db` writes it again"
    )
    assert OLD in world.target.known
    assert world.calls.count("app.deliver") == 1
    world.has["app"] = world.stages[Stage.CURRENT]
    assert retire(world).state is State.OLD_DELETED


@pytest.mark.parametrize("kind", ["two-slots", "one-slot"])
@pytest.mark.parametrize("state", [State.GRACE, State.OLD_DISABLED])
def test_a_consumer_that_went_back_is_told_again(made: Made, state: State, kind: str) -> None:
    """`resume` gives the new value to those that hold another one, to nobody else, and the wait begins again."""
    world = made(kind, consumers=("app", "web"))
    world.policy = Policy(grace=HOUR, observe=HOUR)
    run(world)
    if state is State.OLD_DISABLED:
        world.clock += HOUR
        assert retire(world).state is state
    world.may_lock_out = state is State.OLD_DISABLED
    world.has["app"] = OLD
    world.clock += HOUR / 2
    rotation = resume(world)
    assert world.has["app"] == world.stages[Stage.CURRENT] != OLD
    assert (world.calls.count("app.deliver"), world.calls.count("web.deliver")) == (2, 1)
    assert (rotation.state, rotation.waits_until) == (state, world.clock + HOUR)
    assert [each.note for each in steps(world) if each.note and "again" in each.note] == ["told again: app"]
    world.clock += HOUR - 1
    assert resume(world).state is state
    assert world.calls.count("app.deliver") == 2
    for _ in range(2):
        world.clock += HOUR
        rotation = retire(world)
    assert rotation.state is State.OLD_DELETED
    require_new_everywhere(world)


def test_one_that_is_told_again_does_not_hold_a_deletion_that_was_begun(made: Made) -> None:
    """What is half gone is not waited for anew: nobody could go back to it."""
    world = made()
    world.policy = Policy(observe=HOUR)
    run(world)
    world.clock += HOUR
    world.broken = lambda call: call == "store.delete"
    with pytest.raises(SecretStoreError):
        retire(world)
    world.broken = lambda _call: False
    world.may_lock_out = True
    world.has["app"] = OLD
    assert resume(world).state is State.OLD_DELETED
    require_new_everywhere(world)


def test_a_consumer_that_is_put_back_again_and_again(made: Made) -> None:
    """It is told once in a run: who puts it back is not fought, and the old value stays accepted."""
    world = made()
    killed_at(world, State.GRACE)
    world.has["app"] = OLD

    def put_back(call: str) -> bool:
        if call == "target.revoke":
            raise AssertionError("the old value is needed")
        if call == "store.get" and world.calls.count("app.deliver") > 1:
            world.has["app"] = OLD
        return False

    world.broken = put_back
    rotation = resume(world)
    assert rotation.state is State.GRACE
    assert "app holds another value than the new one in /etc/app" in str(rotation.problem)
    assert world.calls.count("app.deliver") == 2


def test_a_consumer_that_fails_when_it_is_told_again(made: Made) -> None:
    """It does not work with what it was given before: nothing goes, nobody is sent back, and it is told."""
    world = made()
    killed_at(world, State.GRACE)
    world.has["app"] = OLD
    world.consumer_fault = lambda _name: "disk full"
    rotation = resume(world)
    assert (rotation.shown, rotation.is_back) == (State.GRACE, False)
    assert rotation.problem == "app was told again, and does not work: disk full"
    assert OLD in world.target.accepted
    world.consumer_fault = lambda _name: None
    assert resume(world).state is State.OLD_DELETED


def test_nobody_is_told_again_of_a_value_that_is_not_current(made: Made) -> None:
    """Where the store was put back as well, a person has to say which value is meant."""
    world = made()
    killed_at(world, State.GRACE)
    stages = world.stages
    stages[Stage.CURRENT], stages[Stage.PREVIOUS] = stages[Stage.PREVIOUS], stages[Stage.CURRENT]
    world.has["app"] = OLD
    assert "another value is current" in str(resume(world).problem)
    assert world.has["app"] == OLD


def test_with_the_old_value_off_one_that_cannot_be_told_again_gets_it_back(made: Made) -> None:
    """A run died with the old value off, and a consumer holds it: what cannot be told gets it accepted again."""
    world = made()
    killed_at(world, State.GRACE)

    def dies(_call: str) -> bool:
        if OLD not in world.target.accepted:
            world.is_dead = True
            raise Killed
        return False

    world.broken = dies
    with contextlib.suppress(Killed):
        resume(world)
    world.may_lock_out = True
    world.has["app"] = OLD
    world.broken = lambda call: call == "app.deliver"
    with pytest.raises(TargetError):
        resume(world)
    assert OLD in world.target.accepted
    world.broken = lambda _call: False
    assert resume(world).state is State.OLD_DELETED
    require_new_everywhere(world)


@pytest.mark.parametrize("state", [State.GRACE, State.OLD_DISABLED])
def test_a_store_that_was_set_back_holds_the_retirement(made: Made, state: State) -> None:
    """Where the store says that another value is current, which consumers will read, the old one stays."""
    world = made()
    world.may_lock_out = state is State.OLD_DISABLED
    killed_at(world, state)
    stages = world.stages
    stages[Stage.CURRENT], stages[Stage.PREVIOUS] = stages[Stage.PREVIOUS], stages[Stage.CURRENT]
    rotation = resume(world)
    assert (rotation.state, rotation.shown) == (state, state)
    assert "another value is current" in str(rotation.problem)
    assert OLD in world.target.known
    assert OLD in stages.values()
    stages[Stage.CURRENT], stages[Stage.PREVIOUS] = stages[Stage.PREVIOUS], stages[Stage.CURRENT]
    assert resume(world).state is State.OLD_DELETED


def test_with_the_old_value_off_a_consumer_fails(made: Made) -> None:
    """Who turns out to need the old value gets it back at once; nobody logs in by it to see whether it is on."""
    world, probed = made(), list[bytes]()

    def hides(value: bytes) -> bool:
        if "store.promote" in world.calls:
            probed.append(value)
        return False

    world.hides = hides
    world.consumer_fault = lambda _name: None if OLD in world.target.accepted else "needs the old one"
    rotation = run(world)
    assert rotation.state is State.GRACE
    assert rotation.problem == "app does not work: needs the old one"
    assert OLD in world.target.accepted
    applied = world.calls.count("target.apply")
    world.consumer_fault = lambda _name: "disk full"
    assert resume(world).problem == "app does not work: disk full"
    assert world.calls.count("target.apply") == applied  # it is on already
    assert probed
    assert OLD not in probed
    world.consumer_fault = lambda _name: None
    assert resume(world).state is State.OLD_DELETED


def test_with_the_old_value_off_the_new_one_is_refused(made: Made) -> None:
    """A target that takes the new value for the old one: the old one is switched on at once, an operator is needed."""
    world = made()
    world.hides = lambda value: value != OLD and OLD not in world.target.accepted
    rotation = run(world)
    assert rotation.shown is State.NEEDS_OPERATOR
    assert rotation.problem == "with the old value the new one went off as well: the old one is accepted again"
    assert OLD in world.target.accepted


def test_with_one_slot_the_new_value_is_never_switched_off(made: Made) -> None:
    """Where applying the old value would replace the new one that is left to people."""
    world = made("one-slot")
    world.broken = lambda call: call == "target.revoke"
    with pytest.raises(TargetError):
        run(world)
    world.consumer_fault = lambda _name: "disk full"
    world.broken = lambda _call: False
    assert resume(world).problem == "app does not work: disk full"
    assert world.target.accepted == {world.stages[Stage.CURRENT]} != {OLD}


def test_an_old_value_that_somebody_switched_off(made: Made) -> None:
    """What was switched off by other hands, as it was stolen perhaps, is not switched on again by ours."""
    world = made()
    killed_at(world, State.GRACE)
    world.target.accepted.discard(OLD)
    world.consumer_fault = lambda _name: "disk full"
    assert resume(world).problem == "app does not work: disk full"
    assert OLD not in world.target.accepted


@pytest.mark.parametrize("is_late", [False, True])
def test_a_run_killed_with_the_old_value_off(made: Made, is_late: bool) -> None:
    """A run that died between switching off and watching: the next one finds who needs it, and switches it on."""
    world = made()
    world.consumer_fault = lambda _name: None if OLD in world.target.accepted else "needs the old one"
    killed_at(world, State.GRACE)

    def dies(_call: str) -> bool:
        if OLD not in world.target.accepted:
            world.is_dead = True
            raise Killed
        return False

    world.broken = dies
    with contextlib.suppress(Killed):
        resume(world)
    world.broken = lambda _call: False
    assert OLD not in world.target.accepted
    if is_late:
        world.items = items = _Items(["late"])
        items.needs = lambda: OLD in world.target.accepted
    rotation = resume(world)
    assert (rotation.state, rotation.problem) == (State.GRACE, "app does not work: needs the old one")
    assert OLD in world.target.accepted


@dataclass
class _Items:
    """What moves one at a time, and what of it is under the old value still."""

    under_old: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    stubborn: Sequence[str] = ()
    needs: Callable[[], bool] = lambda: True
    came_back: int = 0
    """Items that have moved, are under the old value again, and are not moved twice."""

    def move(self, rotation: Rotation, old: Secret | None, new: Secret) -> str | None:
        del rotation
        assert self.needs()
        assert old is None or old.reveal_bytes() == OLD
        assert new.reveal_bytes() != OLD
        going = [each for each in self.under_old if each not in self.stubborn]
        self.moved += going
        self.under_old = [each for each in self.under_old if each not in going]
        return f"{len(self.under_old)} items failed" if self.under_old else None

    def left(self, rotation: Rotation, old: Secret | None, new: Secret) -> int:
        del rotation, old, new
        return len(self.under_old) + self.came_back

    def has_moved(self, rotation: Rotation) -> bool:
        del rotation
        return bool(self.moved)


def test_items_that_do_not_move_hold_the_retirement(made: Made) -> None:
    """While an item is under the old value the rotation stays where it is; undo is refused, as others have moved."""
    world = made()
    world.items = items = _Items(["a", "b"], stubborn=["b"])
    rotation = run(world)
    assert (rotation.state, rotation.problem, rotation.waits_until) == (State.MIGRATING, "1 items failed", None)
    assert OLD in world.target.accepted
    with pytest.raises(UsageError, match="items of db are under the new value already"):
        undo(world)
    items.stubborn = ()
    assert resume(world).state is State.OLD_DELETED
    assert items.moved == ["a", "b"]


@pytest.mark.parametrize("state", [State.GRACE, State.OLD_DISABLED])
def test_items_that_arrive_late(made: Made, state: State) -> None:
    """What comes under the old value after the moves is moved too, and the wait begins again; nothing is deleted."""
    world = made()
    world.policy = Policy(grace=HOUR, observe=HOUR if state is State.OLD_DISABLED else 0)
    world.items = items = _Items(["a"])
    run(world)
    if state is State.OLD_DISABLED:
        world.clock += HOUR
        assert resume(world).state is State.OLD_DISABLED
    items.under_old.append("late")
    world.clock += HOUR
    rotation = resume(world)
    assert items.moved == ["a", "late"]
    assert (rotation.state, rotation.waits_until) == (State.GRACE, world.clock + HOUR)
    assert OLD in world.target.accepted
    for _ in range(2):
        world.clock += HOUR
        rotation = resume(world)
    assert rotation.state is State.OLD_DELETED


def test_a_list_that_needs_the_old_value(made: Made) -> None:
    """Once the old value is deleted nobody is asked what is under it: that program could not even log in."""
    world = made()
    world.items = items = _Items(["a"])
    world.broken = lambda call: call == "store.delete"
    with pytest.raises(SecretStoreError):
        run(world)
    assert OLD not in world.target.known
    world.broken = lambda _call: False
    items.came_back = 1  # whatever it would say
    assert resume(world).state is State.OLD_DELETED


def test_items_that_came_back(made: Made) -> None:
    """What moved and is under the old value again keeps that one accepted until somebody has seen to it."""
    world = made()
    world.items = items = _Items(["a"])
    killed_at(world, State.GRACE)
    items.came_back = 1
    rotation = resume(world)
    assert (rotation.state, rotation.problem) == (State.GRACE, "1 items are under the old value again")
    items.came_back = 0
    assert resume(world).state is State.OLD_DELETED


def test_late_items_that_do_not_move(made: Made) -> None:
    """A late item that stays under the old value keeps that one accepted, and there is an end of trying."""
    world = made()
    world.items = items = _Items(["a"])
    killed_at(world, State.GRACE)
    items.under_old, items.stubborn = ["late"], ["late"]
    rotation = resume(world)
    assert rotation.problem == "1 items failed"
    assert OLD in world.target.accepted
    items.under_old.clear()
    assert resume(world).state is State.OLD_DELETED


@pytest.mark.parametrize("state", [State.PROMOTED, State.GRACE])
def test_a_reason_is_told_though_it_cannot_be_noted(made: Made, state: State) -> None:
    """Where the journal has no room for why it stopped, that reason is told, and beside it what the journal lacks."""
    world = made()
    killed_at(world, state)
    world.broken = lambda call: call in ("target.revoke", "app.deliver", "journal.keep")
    with pytest.raises(TargetError, match="no answer in time") as caught:
        resume(world)
    assert caught.value.hint == "this could not be noted: the disk with the state folder is full"
    world.broken = lambda _call: False
    assert resume(world).state is State.OLD_DELETED


def test_a_full_disk_keeps_nobody_from_the_old_value(made: Made) -> None:
    """With the old value off, who needs it gets it back though that cannot be noted; with room it is done and noted."""
    world = made()
    world.consumer_fault = lambda _name: None if OLD in world.target.accepted else "needs the old one"
    world.broken = lambda call: call.startswith("journal.") and OLD not in world.target.accepted
    with pytest.raises(StateFull):
        run(world)
    assert OLD in world.target.accepted
    world.broken = lambda _call: False
    rotation = resume(world)
    assert (rotation.state, rotation.problem) == (State.GRACE, "app does not work: needs the old one")
    assert OLD in world.target.accepted
    world.consumer_fault = lambda _name: None
    assert resume(world).state is State.OLD_DELETED
